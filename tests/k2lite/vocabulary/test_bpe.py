from k2lite.vocabulary.bpe import merges_from_ranks

BYTES = [bytes([value]) for value in range(256)]


def test_a_token_is_made_of_the_two_it_was_joined_from():
    assert merges_from_ranks([*BYTES, b"th", b"the"]) == [(b"t", b"h"), (b"th", b"e")]


def test_of_several_cuts_the_one_that_encoding_arrives_at_is_taken():
    # "abc" can be cut into ab|c and a|bc; "bc" has the lower rank, so encoding joins it first.
    tokens = [*BYTES, b"bc", b"ab", b"abc"]
    assert merges_from_ranks(tokens)[-1] == (b"a", b"bc")


def test_tokens_of_higher_rank_take_no_part():
    # "abcd" is older than "cd": when it was made, only ab and abc were there.
    tokens = [*BYTES, b"ab", b"abc", b"abcd", b"cd"]
    assert merges_from_ranks(tokens)[2] == (b"abc", b"d")


def test_a_token_that_nothing_leads_to_has_no_merge():
    assert merges_from_ranks([*BYTES, b"xyz"]) == []


def test_every_token_of_the_real_vocabulary_has_its_merge(kimi_tokenizer):
    merges = {key: value for key, _, value in kimi_tokenizer.gguf_metadata()}["tokenizer.ggml.merges"]
    assert len(merges) == 163_584 - 256
    assert len(set(merges)) == len(merges)

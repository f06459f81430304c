"""Types chosen by the user: what they change, and every way in which they are refused."""

import pytest

from quant.errors import RequestError
from quant.recipe.recipe import RECIPES, plan_types
from quant.recipe.type_overrides import TypeOverride

TENSORS: list[tuple[str, tuple[int, ...]]] = [
    ("token_embd.weight", (64, 256)),
    *(
        (f"blk.{layer}.{name}", shape)
        for layer in range(12)
        for name, shape in (
            ("attn_norm.weight", (256,)),
            ("attn_k_b.weight", (2, 256, 32)),
            ("attn_output.weight", (256, 256)),
            ("ffn_gate_inp.weight", (16, 256)),
            ("ffn_down_exps.weight", (16, 256, 256)),
            ("ffn_down_shexp.weight", (256, 256)),
        )
    ),
    ("output.weight", (64, 256)),
]


def changed(*texts: str) -> dict[str, str]:
    """The tensors that get another type because of the overrides."""
    overrides = tuple(map(TypeOverride.parse, texts))
    before = plan_types(TENSORS, RECIPES["Q4_K_M"])
    after = plan_types(TENSORS, RECIPES["Q4_K_M"], overrides)
    return {name: new.name for (name, _), old, new in zip(TENSORS, before, after, strict=True) if old != new}


def test_a_regex_is_searched_anywhere_in_the_name() -> None:
    assert changed("ffn_down_shexp=F16") == {f"blk.{layer}.ffn_down_shexp.weight": "F16" for layer in range(12)}


def test_anchors_and_groups_work_and_so_does_a_type_in_lower_case() -> None:
    assert changed(r"^blk\.(1|11)\.attn_output=q8_0") == {
        "blk.1.attn_output.weight": "Q8_0",
        "blk.11.attn_output.weight": "Q8_0",
    }


def test_an_equals_sign_in_the_regex_is_part_of_it() -> None:
    assert changed("attn(?=_output)=Q8_0").keys() == {f"blk.{layer}.attn_output.weight" for layer in range(12)}


def test_the_first_override_that_matches_wins() -> None:
    picks = changed(r"blk\.3\.ffn_down_exps=Q8_0", "ffn_down_exps=Q5_K")
    assert picks.pop("blk.3.ffn_down_exps.weight") == "Q8_0"
    assert set(picks.values()) == {"Q5_K"} and len(picks) == 11


def test_norms_and_the_router_stay_f32_beside_what_else_a_regex_matches() -> None:
    assert changed(r"blk\.5\..*=Q8_0").keys() == {
        f"blk.5.{name}.weight" for name in ("attn_output", "ffn_down_shexp", "ffn_down_exps", "attn_k_b")
    }


def test_an_override_changes_no_other_tensor() -> None:
    # The first down matrices of the low-bit types are counted; one that is taken out of the count moves nothing.
    recipe = RECIPES["IQ2_XXS"]
    plain = plan_types(TENSORS, recipe, imatrix=True)
    overridden = plan_types(TENSORS, recipe, (TypeOverride.parse(r"blk\.0\.ffn_down_exps=Q8_0"),), imatrix=True)
    assert [TENSORS[i][0] for i in range(len(TENSORS)) if plain[i] != overridden[i]] == ["blk.0.ffn_down_exps.weight"]


def test_asking_norms_to_stay_what_they_are_is_no_error() -> None:
    assert changed("attn_norm=F32") == {}


@pytest.mark.parametrize("text", ["Q4_K", "=Q4_K", "attn=", ""])
def test_what_is_not_regex_and_type_is_refused(text: str) -> None:
    with pytest.raises(RequestError, match="is not REGEX=TYPE"):
        TypeOverride.parse(text)


def test_an_unknown_type_lists_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"unknown tensor type 'Q4_K_M'.*Q4_K.*MXFP4"):
        TypeOverride.parse("attn=Q4_K_M")


@pytest.mark.parametrize("regex", ["attn_(output", "*", "a{99999999999}", "[z-a]"])
def test_a_broken_regex_is_named_with_its_fault(regex: str) -> None:
    with pytest.raises(RequestError, match="is not a regular expression"):
        TypeOverride.parse(f"{regex}=Q8_0")


def test_a_regex_that_matches_nothing_shows_names_like_it() -> None:
    with pytest.raises(
        RequestError, match=r"'ffn_down_shexps' matches none of the 74 tensors.*blk\.0\.ffn_down_shexp\.weight"
    ):
        changed("ffn_down_shexps=Q8_0")
    with pytest.raises(RequestError, match=r"did you mean .*blk\.0\.attn_output\.weight"):
        changed(r"blk\.\d+\.attn_ouput\.weight=Q8_0")


def test_a_regex_like_no_name_says_where_the_names_are() -> None:
    with pytest.raises(RequestError, match="inspect"):
        changed("zzz=Q8_0")


@pytest.mark.parametrize("regex", ["attn_norm", "ffn_gate_inp"])
def test_norms_and_router_alone_cannot_be_quantized(regex: str) -> None:
    with pytest.raises(RequestError, match=rf"{regex}=Q8_0 has no effect: blk\.0\.{regex}\.weight stays F32"):
        changed(f"{regex}=Q8_0")


def test_an_override_behind_one_that_takes_all_of_its_tensors_is_refused() -> None:
    with pytest.raises(
        RequestError, match=r"down_exps=Q8_0 has no effect, ffn_down=Q5_K takes blk\.0\.ffn_down_exps\.weight"
    ):
        changed("ffn_down=Q5_K", "down_exps=Q8_0")


def test_a_type_that_does_not_fit_a_row_names_the_tensor() -> None:
    with pytest.raises(
        RequestError, match=r"attn=Q6_K does not fit blk\.0\.attn_k_b\.weight: its rows of 32 weights.*256"
    ):
        changed("attn=Q6_K")
    assert changed("attn_k_b=F16", "attn=Q6_K")["blk.0.attn_k_b.weight"] == "F16"

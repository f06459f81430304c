import pytest

from k2lite.tool_declaration import declare_in_typescript, sort_keys


def declared(properties: object, **rest: object) -> str | None:
    """The body of a declaration of one function with these properties."""
    schema = {"type": "object", "properties": properties, **rest}
    text = declare_in_typescript([{"type": "function", "function": {"name": "f", "parameters": schema}}])
    return text and text.removeprefix("# Tools\n\n## functions\nnamespace functions {\n").removesuffix("\n}\n")


def test_published_declarations_are_met_to_the_character(golden):
    cases = golden["tool_declaration_typescript"]["cases"]
    assert cases
    for case in cases:
        assert declare_in_typescript(case["tools"]) == case["text"], case["name"]


def test_no_tools_are_no_text():
    assert declare_in_typescript([]) == ""
    assert declare_in_typescript([{"type": "_plugin"}]) == ""


def test_a_function_without_parameters_takes_an_empty_object():
    text = declare_in_typescript([{"type": "function", "function": {"name": "now"}}])
    assert "type now = (_: {}) => any;" in text


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"type": "integer"}, "number"),
        ({"type": ["string", "null"]}, "string | null"),
        ({"type": ["object", "array"]}, "{} | Array<any>"),
        ({"enum": ["a", 1, None, True]}, '"a" | 1 | None | True'),
        ({"anyOf": [{"type": "array", "items": {"type": "number"}}, {"type": "null"}]}, "Array<number> | null"),
        ({"type": "array"}, "Array<any>"),
        ({}, "any"),
        (True, "any"),
        (False, "null"),
        ({"type": "object", "additionalProperties": False}, "{\n    [k: string]: never\n  }"),
        ({"type": "object", "additionalProperties": {"type": "integer"}}, "{\n    [k: string]: number\n  }"),
    ],
)
def test_types(schema, written):
    assert declared({"x": schema}) == f"type f = (_: {{\n  x?: {written}\n}}) => any;"


def test_constraints_and_defaults_are_comments():
    schema = {"type": "string", "pattern": "a+", "minLength": 2, "maxLength": 9, "default": "é", "description": "D"}
    expected = '  // D\n  // maxLength: 9, minLength: 2, pattern: a+\n  // Default: "é"\n  x?: string\n'
    assert declared({"x": schema}) == "type f = (_: {\n" + expected + "}) => any;"
    assert "// Default: True\n" in declared({"x": {"type": "boolean", "default": True}})


def test_described_items_stand_on_their_own_line():
    items = {"type": "string", "description": "one"}
    assert "x?: Array<\n    // one\n    string\n  >" in declared({"x": {"type": "array", "items": items}})


def test_definitions_become_interfaces():
    node = {"type": "object", "description": "a node", "properties": {"next": {"$ref": "#/$defs/Node"}}}
    text = declared({"head": {"$ref": "#/$defs/Node"}}, **{"$defs": {"Node": node}})
    assert text == "// a node\ninterface Node {\n  next?: Node\n}\ntype f = (_: {\n  head?: Node\n}) => any;"


def test_a_reference_to_the_whole_names_the_parameters():
    text = declared({"child": {"$ref": "#"}})
    assert text == "interface parameters {\n  child?: parameters\n}\ntype f = (_: parameters) => any;"


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/Missing"},
        {"$ref": "other.json"},
        {"allOf": []},
        {"type": ["vector"]},
        {"anyOf": 3},
        "text",
        {"type": "object", "properties": ["a"]},
        {"type": "string", "description": 7},
    ],
)
def test_what_typescript_cannot_say_gives_none(schema):
    assert declared({"x": schema}) is None


def test_keys_are_sorted_at_every_depth_and_lists_keep_their_order():
    assert list(sort_keys({"b": 1, "a": [{"d": 1, "c": 2}]})["a"][0]) == ["c", "d"]
    assert sort_keys([2, 1]) == [2, 1]

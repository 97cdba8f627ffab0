"""Write-back rules: what they match, where their roots are, which names are held."""

from __future__ import annotations

import re

import pytest

from tierfs.cli.mount_options import parse_mount_options
from tierfs.config import Config
from tierfs.errors import ConfigError
from tierfs.lake.writing import AS_USUAL, Storage
from tierfs.options import OPTIONS
from tierfs.writeback.rule import Rule, parse_rule
from tierfs.writeback.rules import Rules, is_marker

BASE = {"url": "s3://bucket/p", "mountpoint": "/mnt/x", "cache": "/nvme/tierfs"}


def matches(rule: str, path: bytes) -> bool:
    return Rules([rule]).root_of(path) is not None


@pytest.mark.parametrize(
    ("rule", "inside", "outside"),
    [
        ("checkpoints/**", [b"checkpoints/a", b"checkpoints/a/b/c"], [b"checkpoints", b"a"]),
        ("**", [b"a", b"a/b", b"a/b/c"], []),
        ("out/*", [b"out/a", b"out/.hidden"], [b"out/a/b", b"out", b"outer/a"]),
        ("out/*.pt", [b"out/a.pt", b"out/.pt"], [b"out/a.pth", b"out/d/a.pt", b"out/aXpt"]),
        ("out/step-?", [b"out/step-1"], [b"out/step-", b"out/step-10", b"out/step-/"]),
        ("**/latest", [b"latest", b"a/latest", b"a/b/latest"], [b"latest/a", b"not-latest"]),
        ("a/**/z", [b"a/z", b"a/b/z", b"a/b/c/z"], [b"az", b"b/z", b"a/b/zz", b"z"]),
        ("a/**/b/*", [b"a/b/c", b"a/x/b/c", b"a/b/b/b/c"], [b"a/b", b"a/x/c", b"a/b/c/d"]),
        ("a/*/**", [b"a/b/c", b"a/b/c/d"], [b"a/b", b"a"]),
        ("logs/run.txt", [b"logs/run.txt"], [b"logs/run-txt", b"logs/run.txt/x", b"logs"]),
        ("a.b/(c)+/*", [b"a.b/(c)+/d"], [b"axb/(c)+/d", b"a.b/c/d", b"a.b/cc/d"]),
    ],
)
def test_a_path_matches_by_its_components(
    rule: str, inside: list[bytes], outside: list[bytes]
) -> None:
    for path in inside:
        assert matches(rule, path), path
    for path in outside:
        assert not matches(rule, path), path


def test_names_are_bytes() -> None:
    assert matches("out/*", b"out/\xff\xfe")
    assert matches("out/*", b"out/a\nb")
    assert matches("out/**", b"out/a\nb/c\n")
    assert matches("out/?", b"out/\n")
    assert not matches("out/a", b"out/a\n")
    assert not matches("out/*.pt", b"out/a.pt\n")
    # As the command line gives a name that is not UTF-8.
    assert matches("\udcff/**", b"\xff/a")
    assert not matches("\udcff/**", b"\xfe/a")
    assert matches("caf\u00e9/*", b"caf\xc3\xa9/a")


@pytest.mark.parametrize(
    ("rule", "root"),
    [
        ("checkpoints/**", b"checkpoints"),
        ("a/b/c/**", b"a/b/c"),
        ("a/*/c/**", b"a"),
        ("a/step-?/c", b"a"),
        ("a/b.pt", b"a"),
        ("a/*.pt", b"a"),
        ("**", b""),
        ("*.pt", b""),
        ("latest", b""),
    ],
)
def test_a_root_is_the_directory_before_the_first_wildcard(rule: str, root: bytes) -> None:
    assert Rules([rule]).roots == (root,)


def test_each_path_has_the_root_of_its_rule() -> None:
    rules = Rules(["a/**", "b/c/*.pt", "b/d/**"])
    assert rules.roots == (b"a", b"b/c", b"b/d")
    assert rules.root_of(b"a/x/y") == b"a"
    assert rules.root_of(b"b/c/x.pt") == b"b/c"
    assert rules.root_of(b"b/d/x.pt") == b"b/d"
    assert rules.root_of(b"b/c/x") is None
    assert rules.root_of(b"b/x") is None
    assert rules.root_of(b"ab/x") is None


def test_of_roots_in_each_other_the_outer_one_is_that_of_both() -> None:
    rules = Rules(["a/b/**", "a/*.txt", "a-b/**", "ab/c/**", "a/b/**"])
    assert rules.roots == (b"a", b"a-b", b"ab/c")
    assert rules.root_of(b"a/b/x") == rules.root_of(b"a/x.txt") == b"a"
    assert rules.root_of(b"a-b/x") == b"a-b"
    # That the root is further out lets nothing more in.
    assert rules.root_of(b"a/c/x") is None
    everything = Rules(["a/**", "latest", "b/**"])
    assert everything.roots == (b"",)
    assert everything.root_of(b"a/x") == everything.root_of(b"latest") == b""


def test_directories_that_lead_to_a_match_can_be_made() -> None:
    rules = Rules(["a/b/*/final/**"])
    for path in (b"a", b"a/b", b"a/b/step-1", b"a/b/step-1/final", b"a/b/step-1/final/x/y"):
        assert rules.root_of_directory(path) == b"a/b", path
    for path in (b"b", b"a/c", b"a/b/step-1/other", b"ab"):
        assert rules.root_of_directory(path) is None, path
    # Files there are no match, though.
    assert rules.root_of(b"a/b/step-1") is None


def test_a_directory_is_led_through_by_any_depth_of_stars() -> None:
    rules = Rules(["a/**/z"])
    for path in (b"a", b"a/b", b"a/b/c", b"a/z"):
        assert rules.root_of_directory(path) == b"a", path
    assert rules.root_of_directory(b"z") is None


def test_a_directory_below_all_of_a_rule_is_none_of_it() -> None:
    rules = Rules(["a/*"])
    assert rules.root_of_directory(b"a/b") == b"a"
    assert rules.root_of_directory(b"a/b/c") is None


def test_a_directory_on_the_way_to_several_roots_has_one() -> None:
    rules = Rules(["x/a/**", "x/b/**"])
    assert rules.root_of_directory(b"x") == b"x/a"
    assert rules.root_of_directory(b"x/b") == b"x/b"


def test_temporary_names_are_held() -> None:
    rules = Rules(["**"])
    for path in (
        b"model.pt.tmp",
        b".tmp",
        b".tmpAbC123",
        b"step-7/.metadata.tmp",
        b"7.orbax-checkpoint-tmp-1700000000",
        b"7.orbax-checkpoint-tmp-1700000000/d/0",
        b"a/x.tmp/b",
        b"d/.zarray.__lock",
        b"a\n.tmp",
        b"\xff.tmp",
    ):
        assert rules.is_held(path), path
    for path in (
        b"model.pt",
        b"tmp",
        b"tmp/model.pt",
        b"a.tmp.pt",
        b"a.tmpl",
        b"a.tmp\n",
        b"latest",
        b"orbax-checkpoint-tmp",
        b"lock",
    ):
        assert not rules.is_held(path), path


def test_what_is_held_can_be_said() -> None:
    rules = Rules(["a/**,hold=*.tmp|partial-?", "b/**,hold=", "**"])
    assert rules.is_held(b"a/partial-1/b")
    assert rules.is_held(b"a/b.tmp")
    assert not rules.is_held(b"a/partial-10/b")
    assert not rules.is_held(b"a/b.__lock")
    assert not rules.is_held(b"b/a.tmp")
    assert rules.is_held(b"c/a.tmp")


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("checkpoints/**", "checkpoints/**"),
        ("/checkpoints/**/", "checkpoints/**"),
        ("//a/*", "a/*"),
        ("**", "**"),
        ("...", "..."),
    ],
)
def test_a_rule_is_normalised(text: str, rule: str) -> None:
    assert str(parse_rule(text)) == rule


@pytest.mark.parametrize("text", ["", "/", "a//b", "./a", "a/.", "../a", "a/../b"])
def test_what_is_no_path_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(ValueError, match=r"such as checkpoints/\*\*"):
        parse_rule(text)


@pytest.mark.parametrize("text", ["a**", "**b/c", "a/b**c", "***"])
def test_two_stars_are_a_whole_component(text: str) -> None:
    with pytest.raises(ValueError, match=r"write checkpoints/\*\*"):
        parse_rule(text)


def test_without_rules_there_is_nothing_to_write_back() -> None:
    with pytest.raises(ConfigError, match=r"checkpoints/\*\*"):
        Rules([])


def test_the_option_takes_several() -> None:
    option = OPTIONS["write_back"]
    assert option.parse("/a:b/**", "--write-back") == ("a:b/**",)
    assert option.parse(["/a/**", "b/*.pt/"], "--write-back") == ("a/**", "b/*.pt")
    assert option.parse_toml("a/**", "write_back") == ("a/**",)
    with pytest.raises(ConfigError, match=r"--write-back: b\*\* .*whole components"):
        option.parse(["/a/**", "b**"], "--write-back")
    with pytest.raises(ConfigError, match="leave it out"):
        option.parse_toml([], "write_back")
    config = Config.assemble(cli={**BASE, "write_back": ["a/**", "b/*.pt"]})
    assert config.write_back == ("a/**", "b/*.pt")
    assert Config.from_json(config.to_json()) == config
    assert Config.assemble(cli=BASE).write_back is None


KEY = "arn:aws:kms:us-east-1:111122223333:key/1234abcd-12ab"


@pytest.mark.parametrize(
    ("text", "table"),
    [
        ("ckpt/**,order=markers", {"glob": "ckpt/**", "order": "markers"}),
        ("a/**,durability=lake", {"glob": "/a/**", "durability": "lake"}),
        ("a/*,storage_class=STANDARD_IA", {"glob": "a/*", "storage-class": "STANDARD_IA"}),
        ("a/*,tags=team=ml|x y=a=b", {"glob": "a/*", "tags": {"team": "ml", "x y": "a=b"}}),
        (f"a/*,kms_key={KEY}", {"glob": "a/*", "kms_key": KEY}),
        ("a/*,hold=*.part|.x", {"glob": "a/*", "hold": ["*.part", ".x"]}),
        ("a/*,hold=", {"glob": "a/*", "hold": []}),
        (r"a\,b/\|\\*,hold=x\|\,", {"glob": "a,b/|\\*", "hold": ["x|,"]}),
        (
            f"a/**,order=markers,durability=lake,storage_class=X,tags=a=b,kms_key={KEY},hold=*.p",
            {
                "glob": "a/**", "hold": "*.p", "kms_key": KEY, "tags": "a=b", "storage_class": "X",
                "durability": "lake", "order": "markers",
            },
        ),
    ],
)  # fmt: skip
def test_a_rule_has_options(text: str, table: dict[str, object]) -> None:
    rule = parse_rule(text)
    assert rule == parse_rule(table)
    assert str(rule) == text
    # Through a file, JSON, and the command line again.
    option = OPTIONS["write_back"]
    assert option.parse_toml([table, "b/*"], "write_back") == (text, "b/*")


def test_what_holds_of_a_rule_without_options() -> None:
    assert parse_rule("a/*,order=strict,durability=local") == Rule("a/*")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a/*,ordre=markers", "no option ordre; did you mean order?"),
        ("a/*,order=lax", "order: it is one of strict, markers"),
        ("a/*,order=", "order has one value"),
        ("a/*,order=strict|markers", "order has one value"),
        ("a/*,order=strict,order=strict", "order is there twice; keep one"),
        ("a/*,durability=yes", "durability: it is one of local, lake"),
        ("a/*,b/*", "b/* is no NAME=VALUE"),
        ("a/*,", "is no NAME=VALUE"),
        ("a/*,storage_class=glacier", "a class is written like STANDARD_IA"),
        ("a/*,storage_class=DEEP_ARCHIVE", "let a lifecycle rule move it there"),
        ("a/*,tags=ml", "write KEY=VALUE"),
        ("a/*,tags=a=b|a=c", "tags: a is there twice"),
        ("a/*,tags=a=b&c=d", "letters, digits, spaces"),
        ("a/*,tags=aws:a=b", "no key in aws:"),
        ("a/*,tags=" + "|".join(f"{n}=x" for n in range(11)), "at most 10"),
        ("a/*,tags=a=" + "x" * 257, "values 256"),
        ("a/*,kms_key=a b", "give the id, ARN or alias"),
        ("a/*,hold=a/b", "patterns of single names"),
    ],
)
def test_what_is_wrong_with_an_option_is_said_with_the_remedy(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        parse_rule(text)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([1], "write a string or a table"),
        ([["a/*"]], "write a string or a table"),
        (7, "a string or a table or an array"),
        ({"order": "markers"}, "a rule has a glob"),
        ({"glob": "a/*", "order": 1}, "order: the value must be a string"),
        ({"glob": "a/*", "tags": {"a=b": "c"}}, "no = in a tag's key"),
        ({"glob": "a/*", "tags": {"a": 1}}, "tags: the values of tags are strings"),
    ],
)
def test_what_is_wrong_in_a_file(value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(message)):
        OPTIONS["write_back"].parse_toml(value, "lake.toml: write_back")


def test_all_mounts_options_count() -> None:
    given = parse_mount_options([r'write_back="a/**,order=markers",ro', r"write_back=b\,c"])
    assert given.values["write_back"] == ["a/**,order=markers", "b,c"]


def test_the_first_rule_that_matches_says_how() -> None:
    rules = Rules(["a/*.pt,tags=k=v,durability=lake", "a/**,storage_class=X"])
    assert rules.storage_of(b"a/x.pt") == Storage(tags=(("k", "v"),))
    assert rules.storage_of(b"a/x") == Storage("X")
    assert rules.storage_of(b"a/d/") == Storage("X")
    assert rules.storage_of(b"b") == AS_USUAL
    assert [rules.waits(path) for path in (b"a/x.pt", b"a/x", b"b")] == [True, False, False]
    assert not Rules(["a/**"]).waits(b"a/x")


def test_rules_of_one_root_agree_on_the_order() -> None:
    rules = Rules(["a/**,order=markers", "a/b/**,order=markers", "c/**"])
    assert [rules.order_of(root) for root in (b"a", b"c", b"gone")] == [
        "markers", "strict", "strict"
    ]  # fmt: skip
    with pytest.raises(ConfigError, match=r"a/\*\* is markers, a/b/\*\* is strict.*belong to /a"):
        Rules(["a/**,order=markers", "c/**", "a/b/**"])
    with pytest.raises(ConfigError, match="different orders"):
        Config.assemble(cli={**BASE, "write_back": ["a/**,order=markers", "**"]})


@pytest.mark.parametrize(
    "name",
    ["latest", "latest_checkpointed_iteration.txt", ".metadata", "x.metadata", "metadata.json",
     "commit_success", "commit_success.txt", "_SUCCESS", "trainer_state.json",
     "model.safetensors.index.json"],
)  # fmt: skip
def test_markers_are_known_by_their_names(name: str) -> None:
    assert is_marker(name.encode())
    assert is_marker(b"a/b/" + name.encode())
    assert is_marker(b"a/" + name.encode() + b"/")
    assert not is_marker(name.encode() + b"/x")


@pytest.mark.parametrize("name", [b"model.pt", b"__0_0.distcp", b"metadata", b"not-latest"])
def test_others_are_no_markers(name: bytes) -> None:
    assert not is_marker(name)


def test_what_a_local_lake_cannot_do_is_refused() -> None:
    local = {**BASE, "url": "file:///lake"}
    with pytest.raises(ConfigError, match="leave storage_class, tags and kms_key out"):
        Config.assemble(cli={**local, "write_back": ["a/**,tags=a=b"]})
    with pytest.raises(ConfigError, match="sse_c_key_file and kms_key exclude each other"):
        Config.assemble(
            cli={**BASE, "write_back": ["a/**,kms_key=x"], "sse_c_key_file": "/nvme/key"}
        )


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"read_only": "true"}, "read_only and write_back exclude each other"),
        ({"anonymous": "true"}, "must sign its requests"),
    ],
)
def test_options_that_exclude_writing(other: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Config.assemble(cli={**BASE, "write_back": ["a/**"], **other})

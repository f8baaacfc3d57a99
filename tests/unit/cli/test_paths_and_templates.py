"""JSON paths, Go templates, aligned text, and what unpacks an archive."""

import io
import tarfile
from pathlib import Path

import pytest

from cli import gotemplate, jsonpath, printers
from cli.commands.copy import unpack
from cli.describing.writer import aligned
from cli.durations import short
from cli.streaming import Detached, DetachKeys

OBJ = {
    "items": [
        {"name": "a", "n": 1, "tags": ["x", "y"], "m": {"k.d": "v"}},
        {"name": "b", "n": 5, "tags": [], "on": True},
    ]
}


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{.items[*].name}", "a b"),
        ("{.items[?(@.n>2)].name}", "b"),
        ("{.items[?(@.on==true)].name}", "b"),
        ("{.items[?(@.tags)].name}", "a b"),
        ("{.items[-1].name}", "b"),
        ("{.items[0:1].name}", "a"),
        ("{.items[0]['name','n']}", "a 1"),
        (r"{.items[0].m.k\.d}", "v"),
        ("{..name}", "a b"),
        ("{.items[*]['n']}", "1 5"),
        ("{range .items[*]}[{.name},{range .tags[*]}{@}{end}]{end}", "[a,xy][b,]"),
        ("x{'{'}{.missing}y", "x{y"),
        ("{$.items[0].name}", "a"),
    ],
)
def test_json_paths(template: str, text: str) -> None:
    assert jsonpath.fill(template, OBJ) == text


@pytest.mark.parametrize("template", ["{.items[9]}", "{.a", "{range .items[*]}", "{end}"])
def test_json_paths_that_are_wrong_are_refused(template: str) -> None:
    with pytest.raises(jsonpath.PathError):
        jsonpath.fill(template, OBJ)


@pytest.mark.parametrize(
    ("template", "text"),
    [
        ("{{.missing}}", "<no value>"),
        ("{{range .items}}{{.name}}{{if .on}}!{{else if gt .n 0}}?{{end}} {{end}}", "a? b! "),
        ("{{range $i, $x := .items}}{{$i}}{{$x.name}}{{else}}none{{end}}", "0a1b"),
        ('{{with index .items 1}}{{.name | printf "%s-%d" .n | print}}{{end}}', ""),
        ("{{ len .items }} {{- /* gone */ -}} z", "2z"),
        ("{{$x := 3}}{{if and $x (eq $x 3 4)}}yes{{end}}", "yes"),
        ('{{define "t"}}<{{.name}}>{{end}}{{range .items}}{{template "t" .}}{{end}}', "<a><b>"),
        ("{{(index .items 0).tags}}", "[x y]"),
    ],
)
def test_go_templates(template: str, text: str) -> None:
    if "%d" in template:
        with pytest.raises(gotemplate.TemplateError):
            gotemplate.fill(template, OBJ)
    else:
        assert gotemplate.fill(template, OBJ) == text


def test_columns_are_aligned_over_neighbouring_lines() -> None:
    assert aligned("a\tb\nlong\tc\nplain\nx\ty") == "a     b\nlong  c\nplain\nx  y"
    assert aligned("k:\ta\tb\nkk:\taaa\tc") == "k:   a    b\nkk:  aaa  c"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(5, "5s"), (119, "119s"), (120, "2m"), (190, "3m10s"), (3600, "60m"), (3 * 3600, "3h"), (3 * 3600 + 60, "3h1m"), (49 * 3600, "2d1h"), (400 * 86400, "400d"), (800 * 86400, "2y70d")],
)  # fmt: skip
def test_ages(seconds: int, text: str) -> None:
    assert short(seconds) == text


def test_an_archive_can_not_write_outside_of_its_place(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, link in (("d/fine", ""), ("d/../../evil", ""), ("/abs", ""), ("d/out", "../../.."), ("d/in", "fine")):
            member = tarfile.TarInfo(name)
            if link:
                member.type, member.linkname = tarfile.SYMTYPE, link
                tar.addfile(member)
            else:
                member.size = 2
                tar.addfile(member, io.BytesIO(b"ok"))
    place = tmp_path / "inner" / "here"
    place.parent.mkdir()
    left_out = unpack(buffer.getvalue(), "d", place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["fine", "here", "in", "inner"]
    assert len(left_out) == 3


def test_detach_keys_may_come_in_pieces_and_are_not_swallowed() -> None:
    keys = DetachKeys(b"\x10\x11")
    assert keys.feed(b"ls\x10") == b"ls"
    assert keys.feed(b"x") == b"\x10x"
    assert keys.feed(b"\x10") == b""
    with pytest.raises(Detached):
        keys.feed(b"\x11")


def test_rows_are_sorted_as_kubectl_sorts_them() -> None:
    """Texts by their letters, also where these are digits; what reads as a quantity by its size."""
    names = [{"metadata": {"name": name}} for name in ("x5", "every-8kh2l", "x40", "every-57bw2")]
    sorted_names = [one["metadata"]["name"] for one in printers.sort_rows(names, ".metadata.name")]
    assert sorted_names == ["every-57bw2", "every-8kh2l", "x40", "x5"]
    sizes = [{"spec": {"size": size}} for size in ("10Gi", "2Gi", "500Mi")]
    assert [one["spec"]["size"] for one in printers.sort_rows(sizes, ".spec.size")] == ["500Mi", "2Gi", "10Gi"]

"""The page as a browser reads it: well formed, self-contained, accessible, and safe from what records say."""

from __future__ import annotations

import base64
import hashlib
import itertools
import re
from collections import Counter
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rarefy.errors import InputError
from rarefy.records import RunRecord
from rarefy.report import page, write

MakeRun = Callable[..., RunRecord]
VOID = {"meta", "link", "img", "br"}
EVIL = """<script>alert(1)</script>"><img src=x onerror='alert(2)'>&amp;{{ 7 * 7 }}"""


class Page(HTMLParser):
    """Reads a page, and fails where an element is not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.parents: list[str] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.parents.append(self.open[-1] if self.open else "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.parents.append(self.open[-1])

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes another element, line {self.getpos()[0]}"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in {"style", "script"}:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def headings(self) -> list[int]:
        return [int(tag[1]) for tag, _ in self.elements if re.fullmatch("h[1-6]", tag)]


def pages(make: MakeRun) -> dict[str, list[tuple[str, RunRecord]]]:
    whole = make()
    killed = make(outcome=None, steps=whole.steps[:2])
    return {
        "one": [("lenet5", whole)],
        "killed": [("lenet5", killed)],
        "nothing yet": [("lenet5", make(outcome=None, steps=[], original=None))],
        "not judged": [("lenet5", make(score=None))],
        "one layer": [("x", make(shapes=[("weight", [3, 4])]))],
        "no tensors": [("x", make(shapes=[]))],
        "zero-size": [("x", make(shapes=[("empty", [0, 4]), ("scalar", [])]))],
        "300 layers": [("x", make(shapes=[(f"layers.{i}.weight", [64, 64]) for i in range(300)]))],
        "hostile": [(EVIL, hostile(make))],
        "several": [("a", whole), ("b", make(score=0.95, seed=1)), ("c", killed)],
    }


def hostile(make: MakeRun) -> RunRecord:
    run = make(shapes=[(EVIL, [4, 4]), ("b", [4])], model=EVIL, task=EVIL, command=EVIL, recipe={EVIL: [EVIL]})
    assert run.outcome is not None
    run.outcome.layers[0].encoding = run.outcome.layers[1].reason = EVIL
    run.outcome.classes[0] = run.outcome.classes[0].model_copy(update={"name": EVIL, "after": 0.1})
    run.outcome.changed[0] = run.outcome.changed[0].model_copy(
        update={"name": EVIL, "truth": EVIL, "after": EVIL, "png": '" onerror="alert(3)'}
    )
    run.outcome.warnings = [EVIL]
    run.steps[0].name = run.steps[0].notes[0].parameter = EVIL
    run.steps[0].settings = {EVIL: EVIL}
    run.environment.machine = EVIL
    return run


KINDS = [
    "one",
    "killed",
    "nothing yet",
    "not judged",
    "one layer",
    "no tensors",
    "zero-size",
    "300 layers",
    "hostile",
    "several",
]


@pytest.fixture(params=KINDS)
def html(request: pytest.FixtureRequest, make_run: MakeRun) -> str:
    return page(pages(make_run)[request.param])


def test_it_is_well_formed_and_accessible(html: str) -> None:
    assert html.startswith("<!doctype html>\n")
    found = Page(html)
    kinds = Counter(tag for tag, _ in found.elements)
    assert kinds["table"] == kinds["caption"]
    assert kinds["main"] == kinds["h1"] == 1
    assert all(th.get("scope") in {"row", "col"} for th in found.all("th"))
    assert all(image.get("alt") for image in found.all("img"))
    assert found.all("html") == [{"lang": "en"}]
    levels = found.headings()
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    pictures = [svg for svg in found.all("svg") if svg.get("role") == "img"]
    assert len(pictures) == kinds["desc"] == kinds["title"] - 1  # the page has one itself


def test_anchors_are_unique_and_links_lead_to_them(html: str) -> None:
    found = Page(html)
    ids = [attributes["id"] for _, attributes in found.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {(a.get("href") or "")[1:] for a in found.all("a")} <= set(ids)
    regions = [a["aria-label"] for _, a in found.elements if a.get("role") == "region"]
    assert len(regions) == len(set(regions))


def test_it_asks_no_network_and_runs_only_its_own_script(html: str) -> None:
    found = Page(html)
    for _, attributes in found.elements:
        assert not any(name.startswith("on") or name == "style" for name in attributes)
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            assert re.match("#|data:", attributes.get(name) or "#")
    assert "http://" not in html
    assert "https://" not in html
    assert "@import" not in html
    policy = next(m["content"] for m in found.all("meta") if m.get("http-equiv") == "Content-Security-Policy") or ""
    assert policy.startswith("default-src 'none'; img-src data:;")
    for tag in ("script", "style"):
        (own,) = re.findall(f"<{tag}>(.*?)</{tag}>", html, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy


def test_what_records_say_stays_text(make_run: MakeRun) -> None:
    html = page(pages(make_run)["hostile"])
    found = Page(html)
    assert len(found.all("script")) == 1
    assert "alert(1)" not in html.split("<script>")[1]
    assert found.text.count("{{ 7 * 7 }}") > 10
    assert "<script>alert(1)</script>" in found.text


def test_characters_that_hide_or_turn_text_are_shown(make_run: MakeRun) -> None:
    html = page([("a\u202eb\x00c\udc80", make_run())])
    assert "a\\u202eb\\u0000c\\udc80: 1,725" in html
    html.encode()


@pytest.mark.parametrize("kind", ["killed", "nothing yet"])
def test_sections_without_data_are_absent(make_run: MakeRun, kind: str) -> None:
    text = Page(page(pages(make_run)[kind])).text
    absent = [
        "Every tensor",
        "Where the bytes went",
        "Distribution",
        "Classes",
        "answer changed",
        "exported",
        "Latency of one inference",
    ]
    assert not any(title in text for title in absent)
    assert "How to reproduce it" in text


def test_a_whole_run_has_every_section(make_run: MakeRun) -> None:
    html = page([("lenet5", make_run())])
    text = Page(html).text
    assert html.count("<section aria-labelledby") == 13
    for words in [
        "fc2.weight: 500 weights share a sign",
        "Step 4, Finetune: stopped early",
        "operations and memory traffic at 45 nm, Horowitz 2014",
        "0.133 ms 0.15 ms 1.01x 0.99 to 1.03 unchanged 200",
        "16 × 16 × 3 × 3 1 × 16 × 14 × 14 1 1 0.107 ms 0.132 ms 0.132 ms 0.81x 1.02x unchanged",
        "bits do not pay beside INT8 in layers of 16 × 16 × 3 × 3: Quantize",
        "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz, with avx2, fma, avx512f, avx512_vnni",
        "a bias: too small for a codebook to pay",
        "pruned 368,000 of 400,000 (92.0 %)",
        "43 examples got another answer; 15 are shown",
        "Of 10 classes, the 4 that lost most accuracy",
        "All optimisations 3.8e−06 100.00 %",
        "rarefy compress lenet5 --data mnist",
        "- PruneWeights: sparsity: 0.92",
        "1 KB = 1000 bytes",
    ]:
        assert words in text
    assert len(html) < 300_000


def test_the_table_of_tensors_sorts_and_ends_with_the_size_of_the_file(make_run: MakeRun) -> None:
    html = page([("lenet5", make_run())])
    table = next(t for t in re.findall("<table.*?</table>", html, re.DOTALL) if "Every" in t or "shipped file;" in t)
    heads = re.findall(r'<th scope="col"[^>]*>', table)
    assert all('aria-sort="none"' in head and 'data-sort="' in head for head in heads)
    assert len(heads) == 9
    body, foot = table.split("<tfoot>")
    numbers = re.findall(r'data-value="(\d+)">[\d,]+</td><td class="n" data-value="(\d+)"', body)
    before, after = (sum(int(pair[at]) for pair in numbers) for at in (0, 1))
    assert (before + 640, after + 1412) == (1_724_960, 15_032)
    assert ">1,724,960<" in foot
    assert ">15,032<" in foot


def test_several_runs_open_with_the_comparison(make_run: MakeRun) -> None:
    html = page(pages(make_run)["several"])
    text = Page(html).text
    assert "3 runs compared" in text
    assert "Size against score" in text
    assert "seed 0 1 0" in text
    assert html.count('<details class="run"') == 3
    assert 'href="#r2"' in html


def test_nothing_to_report() -> None:
    with pytest.raises(InputError, match="a report needs at least one run; none was given"):
        page([])


def test_the_same_records_make_the_same_page(make_run: MakeRun) -> None:
    assert page([("a", make_run())]) == page([("a", make_run())])


def test_written_whole(make_run: MakeRun, tmp_path: Path) -> None:
    run = make_run()
    path = tmp_path / "report.html"
    assert write([("a", run)], path) == path
    assert path.read_text("utf-8") == page([("a", run)])
    assert list(tmp_path.iterdir()) == [path]


def test_a_page_that_cannot_be_written_leaves_what_was_there(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    path.write_text("before")

    def full(_file: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(InputError, match=r"report\.html .*No space left on device"):
        write([("a", make_run())], path)
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]

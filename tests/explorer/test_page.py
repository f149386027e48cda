"""The page's files, without a browser: both languages, contrast, vendored libraries, the one-file form."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

from conftest import ROOT
from explorer.sample import sample
from pellucid.explorer.page import STATIC, notebook_frame, single_page

OURS = sorted(path for path in STATIC.rglob("*.js") if path.parent.name != "vendor")
ENTRY = re.compile(r'^  (?:"([\w.-]+)"|(\w+)): "((?:[^"\\]|\\.)*)",$', re.MULTILINE)


def table(language: str) -> dict[str, str]:
    source = (STATIC / "text" / f"{language}.js").read_text(encoding="utf-8")
    body = source.split("export default {")[1].rsplit("};", 1)[0]
    found = {first or second: text for first, second, text in ENTRY.findall(body)}
    assert len(found) == len([line for line in body.splitlines() if line.strip()]), "an entry a line, no key twice"
    return found


def test_both_languages_have_the_same_keys_and_the_same_numbers_in_them() -> None:
    english, chinese = table("en"), table("zh")
    assert english.keys() == chinese.keys()
    for key, text in english.items():
        assert sorted(re.findall(r"\{(\w+)\}", text)) == sorted(re.findall(r"\{(\w+)\}", chinese[key])), key


def test_chinese_texts_are_chinese() -> None:
    same = {key for key, text in table("zh").items() if not re.search(r"[\u4e00-\u9fff]", text)}
    assert same <= {"matrix.readout", "cell.dot", "cell.divisor", "attention.divided", "attention.undivided"}


def test_every_text_that_the_modules_ask_for_exists() -> None:
    keys = table("en").keys()
    for path in OURS:
        for key in re.findall(r'\bt\("([\w.-]+)"', path.read_text(encoding="utf-8")):
            assert key in keys, f"{path.name}: {key}"


def test_at_least_twelve_questions_each_with_an_answer_of_two_sentences_at_most() -> None:
    for language, end in (("en", r"[.?!](?:\s|$)"), ("zh", "[。？！]")):
        texts = table(language)
        asked = [key.split(".")[1] for key in texts if key.startswith("q.") and key.endswith(".ask")]
        assert len(asked) >= 12
        for key in asked:
            assert 1 <= len(re.findall(end, texts[f"q.{key}.answer"])) <= 2, (language, key)
            assert "{" in texts[f"q.{key}.figure"], key


def test_no_file_names_another_place_or_draws_lots() -> None:
    for path in STATIC.rglob("*.*"):
        if path.suffix not in (".js", ".css", ".html"):
            continue
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
        assert not re.search(r"https?://|Math\.random|getRandomValues|@import|url\((?!['\"]?data:)", text), path


def test_vendored_files_are_what_is_recorded() -> None:
    script = [sys.executable, str(ROOT / "scripts" / "vendor.py"), "--check"]
    result = subprocess.run(script, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
    assert json.loads((STATIC / "vendor" / "vendor.json").read_text(encoding="utf-8")).keys() == {
        path.name for path in (STATIC / "vendor").glob("*.js")
    }


def test_the_style_sheet_states_each_rule_once() -> None:
    style = re.sub(r"/\*.*?\*/", "", (STATIC / "style.css").read_text(encoding="utf-8"), flags=re.DOTALL)
    open_heads: list[str] = []
    seen = set()
    for head, bracket in re.findall(r"([^{};]*)([{};])", style):
        if bracket == "{":
            open_heads.append(" ".join(head.split()))
            if not open_heads[-1].startswith("@"):
                assert tuple(open_heads) not in seen, open_heads
                seen.add(tuple(open_heads))
        elif bracket == "}":
            open_heads.pop()
    assert len(seen) > 150 and not open_heads


# -- colours


def luminance(colour: str) -> float:
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def themes() -> dict[str, dict[str, str]]:
    style = (STATIC / "style.css").read_text(encoding="utf-8")
    blocks = {
        "light": style.split(":root {")[1].split("}")[0],
        "dark": style.split(':root[data-theme="dark"] {')[1].split("}")[0],
        "dark by the system": style.split(':root:not([data-theme="light"]) {')[1].split("}")[0],
    }
    return {name: dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block)) for name, block in blocks.items()}


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_texts_stand_out_from_what_they_stand_on(theme: str) -> None:
    colours = themes()[theme]
    for ground in ("paper", "surface", "sunken"):
        for text in ("ink", "soft", "source", "target", "heat"):
            assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    for text, ground in (("target", "target-wash"), ("source", "source-wash"), ("surface", "target"), ("paper", "ink")):
        assert contrast(colours[text], colours[ground]) >= 4.5, (text, ground)
    assert contrast(colours["ink"], colours["cell"]) >= 4.5


def test_dark_is_the_same_whoever_asks_for_it() -> None:
    assert themes()["dark"] == themes()["dark by the system"]


# -- one file


def test_the_single_page_has_everything_in_it() -> None:
    page = single_page(json.dumps(sample()))
    scripts = re.findall(r"<script([^>]*)>(.*?)</script>", page, re.DOTALL)
    assert [attributes.strip() for attributes, _ in scripts] == [
        'type="application/json" id="pellucid-trace"',
        'type="module"',
    ]
    assert not re.search(r'^\s*(import|export)\b|\bfrom"\.', scripts[1][1], re.MULTILINE)
    assert not re.search(r'<link rel="stylesheet"|<script[^>]* src=', page)
    for path in OURS:
        assert f'modules["{path.relative_to(STATIC).as_posix()}"]' in page


def test_no_text_of_a_trace_can_end_its_element() -> None:
    document = sample()
    document["request"]["text"] = "</script><script>alert(1)</script><!--"
    page = single_page(json.dumps(document))
    held = re.findall(r'id="pellucid-trace">(.*?)</script>', page, re.DOTALL)
    assert json.loads(held[0]) == document


def test_a_notebook_frame_may_run_scripts_and_nothing_else() -> None:
    frame = notebook_frame('<p title="a">&</p>')
    assert 'sandbox="allow-scripts"' in frame
    assert 'srcdoc="&lt;p title=&quot;a&quot;&gt;&amp;&lt;/p&gt;"' in frame


def test_the_wheel_has_the_page() -> None:
    assert '"explorer/static/**/*"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")

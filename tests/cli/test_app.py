"""`costmodel app` as a process, and its page as a real browser shows it: every control, by hand and by keyboard."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request

import pytest
from browser import BROWSER, NAMES, browsing
from command_line import PATIENCE, surroundings

pytest.importorskip("starlette", reason="the extra [app] is not installed")

in_a_browser = pytest.mark.skipif(BROWSER is None, reason=f"none of {', '.join(NAMES)} is on the PATH")

START = "of=qwen3-8b&on=nodes/dgx-h100&run=decode"
TYPED = {
    "decode": {
        "batch_per_device": "8", "input_tokens": "2048", "output_tokens": "256", "parallel.tp": "2",
        "parallel.pp": "2", "parallel.dp": "2", "parallel.ep": "1", "parallel.cp": "1", "micro_batches": "1",
        "precision": "fp8-inference", "framework": "sglang", "anchor.value": "9 ms", "anchor.at": "input_tokens=512",
        "set": "hardware.memory.hbm.bandwidth=3 TB/s", "on": "nodes/hgx-h200",
    },
    "prefill": {"tokens_per_device": "4096", "input_tokens": "512"},
    "generate": {"batch": "4"},
    "serving": {"concurrency": "8"},
    "training": {
        "global_batch": "64", "sequence": "2048", "micro_batch": "1", "schedule": "gpipe", "recompute": "selective",
        "optimizer.zero": "1",
    },
}  # fmt: skip
ANSWERED = "!asking && !again && document.body.dataset.answered === String(query())"
CHANGED = """((name, value) => {
  const input = document.getElementsByName(name)[0];
  input.value = value;
  input.dispatchEvent(new Event("input", {bubbles: true}));
  clearTimeout(typing);
  ask();
})(%s, %s) || true"""


@pytest.fixture(scope="module")
def address():
    """Yield the address of a page that is served by a process, which an interrupt ends together with its workers."""
    served = subprocess.Popen(
        [sys.executable, "-m", "costmodel", "app", "--port", "0"], stdout=subprocess.PIPE, text=True, env=surroundings()
    )
    try:
        assert served.stdout is not None
        yield re.match(r"(http://127\.0\.0\.1:\d+/) ", served.stdout.readline())[1]
    finally:
        served.send_signal(signal.SIGINT)
        served.wait(PATIENCE)


def asked(address, path="", *, method="GET", body=None, **headers):
    """Return status and content of one answer."""
    request = urllib.request.Request(address + path, data=body, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def test_an_answer_is_the_one_of_the_command_line(address, run):
    status, body = asked(address, f"result.json?{START}&batch_per_device=8")
    assert status == 200
    options = (
        "qwen3-8b",
        "--cluster",
        "nodes/dgx-h100",
        "--phase",
        "decode",
        "--set",
        "scenarios.decode.batch_per_device=8",
    )
    own = json.loads(run("simulate", *options, "--json").out)["scenarios"]["decode"]
    assert json.loads(body)["scenarios"]["decode"] == own


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("answer?of=/etc/passwd", 200), ("answer?no.such=1", 400), ("result.json?of=/etc/passwd", 400),
        ("workload.yaml?run=none", 400), ("nowhere", 404), ("../../etc/passwd", 404), ("app.js/../server.py", 404),
        ("runs/none", 404), ("models", 405),
    ],
)  # fmt: skip
def test_only_what_the_page_offers_is_answered(address, path, status):
    assert asked(address, path)[0] == status


def test_a_queue_that_grows_has_no_end_and_no_interval(address):
    _, body = asked(address, "answer?of=qwen3-8b&on=nodes/h100-x1&run=serving&rate=900/s")
    assert re.search(r"request latency</span> <strong>no end</strong></p>", json.loads(body)["html"])


def test_others_cannot_ask_and_models_of_other_files_are_not_read(address):
    assert asked(address, "answer", Host="evil.example")[0] == 421
    assert asked(address, "runs?kind=events", method="POST", Origin="http://evil.example")[0] == 403
    status, body = asked(address, "models", method="POST", body=b"schema: costmodel/model@1\nextends: llama-3-8b\n")
    assert (status, b"another file" in body) == (400, True)
    assert asked(address, "models", method="POST", body=b"x" * 300_000)[0] == 413


def test_a_run_has_progress_and_a_result_or_is_cancelled(address):
    status, body = asked(address, f"runs?kind=levers&{START}", method="POST")
    assert status == 201
    key = json.loads(body)["key"]
    assert 0.0 <= json.loads(asked(address, f"runs/{key}")[1])["share"] <= 1.0
    assert asked(address, f"runs/{key}", method="DELETE")[0] == 200
    assert asked(address, f"runs/{key}")[0] == 404
    key = json.loads(asked(address, f"runs?kind=events&{START}", method="POST")[1])["key"]
    while not (state := json.loads(asked(address, f"runs/{key}")[1]))["done"]:
        pass
    assert "time per output token" in state["html"]


def test_a_plan_refuses_what_it_cannot_know_at_its_field(address):
    path = "runs?kind=plan&cluster=nodes/h100-x1&model=qwen3-8b"
    for more, field in (("", "rate"), ("&rate=4/s", "isl"), ("&rate=fast", "rate"), ("&cluster=/etc/x", "cluster")):
        status, body = asked(address, path + more, method="POST")
        assert (status, json.loads(body)["field"]) == (400, field)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """Yield a browser, one for all tests."""
    with browsing(tmp_path_factory.mktemp("browser") / "profile") as one:
        yield one


def opened(browser, address, query, width=1440, scheme="light"):
    """Open the page and wait for its answer."""
    browser.open(f"{address}?{query}", width, scheme)
    browser.wait(f"typeof asking !== 'undefined' && {ANSWERED}")


def changed(browser, name, value):
    """Change a control, wait for the answer, and return what is wrong."""
    browser.value(CHANGED % (json.dumps(name), json.dumps(value)))
    browser.wait(ANSWERED)
    return browser.value(
        "[...document.querySelectorAll('[data-wrong], #answer [role=alert]')].map((e) => e.textContent).join('')"
    )


@in_a_browser
@pytest.mark.parametrize("phase", TYPED)
def test_every_control_changes_the_answer_and_the_address(browser, address, phase):
    opened(browser, address, START.replace("decode", phase))
    visible = "[...document.querySelectorAll('[data-path]:not([hidden]) [name]')].map((e) => e.name)"
    for name, value in TYPED[phase].items():
        assert changed(browser, name, value).strip() == "", name
        assert browser.value(f"new URLSearchParams(location.search).get({json.dumps(name)})") == value
    if phase in ("decode", "training"):
        others = {"framework", "precision", "parallel.tp", "parallel.pp", "parallel.dp", "parallel.ep", "parallel.cp"}
        assert set(browser.value(visible)) <= set(TYPED[phase]) | others
    assert browser.errors() == []


@in_a_browser
def test_levers_are_switches_of_the_phase_at_hand(browser, address):
    opened(browser, address, START)
    before = browser.value("document.querySelector('.headline strong').textContent")
    browser.value("document.querySelector('[name=lever][value=fp8-kv]').click() || true")
    browser.wait(f"{ANSWERED} && location.search.includes('lever=fp8-kv')")
    assert browser.value("document.querySelector('.headline strong').textContent") != before
    assert "kv_cache=fp8" in browser.value("document.querySelector('pre').textContent")
    assert browser.value("document.querySelector('[name=lever][value=fp8-training]').disabled")


@in_a_browser
@pytest.mark.parametrize("width", [375, 1440])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window_offline_without_a_word_on_the_console(browser, address, width, scheme):
    opened(browser, address, f"{START}&b.of=qwen3-8b&b.on=nodes/hgx-h200&b.run=decode", width, scheme)
    assert browser.value("document.documentElement.scrollWidth") <= width
    assert browser.value("document.querySelectorAll('.plot .main-svg').length") >= 4
    assert browser.value("document.querySelector('.headline').getBoundingClientRect().bottom") < 800
    assert browser.errors() == []
    assert all(each.startswith((address, "blob:")) for each in browser.requested())
    dark = browser.value("getComputedStyle(document.body).backgroundColor") == "rgb(20, 20, 20)"
    assert dark == (scheme == "dark")


@in_a_browser
def test_an_error_stands_at_its_field_and_goes_with_it(browser, address):
    opened(browser, address, START)
    assert "divide" in changed(browser, "parallel.tp", "3")
    field = "document.getElementsByName('parallel.tp')[0]"
    assert browser.value(f"{field}.getAttribute('aria-invalid')") == "true"
    assert "divide" in browser.value(f"document.getElementById({field}.getAttribute('aria-describedby')).textContent")
    assert changed(browser, "parallel.tp", "2") == ""
    assert browser.value(f"{field}.getAttribute('aria-invalid')") == "false"


@in_a_browser
def test_a_plan_has_its_front_and_what_runs_its_models(browser, address):
    load = "rate=1/s&isl=128&osl=16&ttft=1s@p99&tpot=50ms@p99"
    browser.open(f"{address}plan?model=qwen3-8b&cluster=nodes/h100-x1&{load}", 1440, "light")
    browser.wait("document.querySelector('#plot-front .main-svg') !== null")
    assert "replica" in browser.value("document.querySelector('.said').textContent")
    assert browser.value("[...document.querySelectorAll('.run .wide')].every((e) => e.scrollWidth <= e.clientWidth)")
    browser.open(f"{address}plan?cluster=nodes/rtx-4090-x1", 375, "dark")
    browser.wait("document.querySelector('.said') !== null")
    assert browser.value("document.querySelectorAll('.run tbody tr').length") > 10
    assert browser.value("document.documentElement.scrollWidth") <= 375
    assert browser.errors() == []


@in_a_browser
def test_the_page_is_used_by_keyboard_alone(browser, address):
    opened(browser, address, START)

    def focus_on(expression):
        for _ in range(200):
            if browser.value(f"document.activeElement.matches({json.dumps(expression)})"):
                return
            browser.press("Tab")
        raise AssertionError(f"no way to {expression}")

    browser.press("Tab")
    assert browser.value("document.activeElement.className") == "skip"
    focus_on("[name=batch_per_device]")
    browser.press("8", "Enter")
    browser.wait(f"{ANSWERED} && location.search.includes('batch_per_device=8')")
    focus_on("details > summary")
    browser.press("Enter")
    browser.wait("document.activeElement.parentElement.open")
    focus_on("[name=lever]")
    browser.press("Space")
    browser.wait(f"{ANSWERED} && location.search.includes('lever=')")
    focus_on("[name=add]")
    browser.press("Enter")
    browser.wait(f"document.querySelectorAll('[role=tab]').length === 2 && typeof asking !== 'undefined' && {ANSWERED}")
    assert browser.value("document.querySelectorAll('.answer').length") == 2
    focus_on("[role=tab]")
    browser.press("ArrowLeft")
    assert not browser.value("document.getElementById('scenario-A').hidden")
    focus_on("[data-run=events]")
    browser.press("Enter")
    browser.wait("document.querySelector('.run .headline') !== null")
    assert browser.errors() == []

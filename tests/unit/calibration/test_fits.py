"""Where a fit comes from: the framework's implementation, the device's default, a sibling, the nearest variant."""

from __future__ import annotations

import json

import pytest
from small_world import edit, write

from costmodel.calibration.candidates import nearest_variants
from costmodel.calibration.fit_files import FitStore
from costmodel.calibration.fit_lookup import FitLookup, load_calibration
from costmodel.calibration.fit_selection import UNNAMED, Chooser, Kernel
from costmodel.calibration.residual_files import read_residuals
from costmodel.cost.calibration import Calibration
from costmodel.cost.elementwise import ElementwiseForm
from costmodel.cost.parameter import parameters
from costmodel.errors import InputError
from costmodel.schema.files import validate
from costmodel.schema.references import Library
from costmodel.workload.operators import Gemm

SPREAD = "spread: [{time: 1 ms, low: 0.9, median: 1, high: 1.1, rows: 30}], rows: 30"
PRODUCT = Gemm("x", m=64.0, n=64.0, k=64.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0)


def stream(launch_us: float, **more: str) -> str:
    """Return a family with a form, told apart by its launch."""
    start = {name: f"{parameter.start:g}" for name, parameter in parameters(ElementwiseForm).items()}
    form = ", ".join(f"{name}: {value}" for name, value in (start | {"launch": f"{launch_us} us"}).items())
    further = "".join(f"{key}: {value}, " for key, value in more.items())
    return f"{{form: {{kind: elementwise, {form}}}, {further}{SPREAD}}}"


def file(root, name, families, extra=""):
    """Write a calibration file."""
    device, _, _ = name.partition("/")
    lines = "".join(f"  {key}: {value}\n" for key, value in families.items())
    return write(root, f"hardware/calibrations/{name}.yaml", f"""
schema: costmodel/calibration@1
name: {name}
device: devices/{device}
basis: fitted
{extra}families:
{lines}""")  # fmt: skip


def fits(root, chosen=None, device="chip"):
    named = {family: (one,) for family, one in (chosen or {}).items()}
    return FitLookup(FitStore(Library([root])), device, named)


def launch(fit):
    return round(1e6 * fit.form.launch)


@pytest.fixture
def defaults(world):
    """Return a root whose chip has a default for element-wise kernels and products."""
    file(world, "chip/usual", {"elementwise/norm": stream(1), "elementwise/add": stream(2), "gemm/bf16": stream(3)})
    chip = (world / "hardware/devices/chip.yaml").read_text()
    chip += "calibration: {default: {elementwise: usual, gemm: usual}}\n"
    write(world, "hardware/devices/chip.yaml", chip)
    return world


def test_a_default_of_the_device_prices_a_variant_without_a_framework(defaults):
    found = fits(defaults)
    assert launch(found["elementwise/norm"]) == 1
    assert found["elementwise/norm"].basis == "fitted"
    assert list(found.notes) == []


def test_the_frameworks_implementation_comes_before_the_default(defaults):
    file(defaults, "chip/own", {"elementwise/norm": stream(9)})
    found = fits(defaults, {"elementwise": "own"})
    assert launch(found["elementwise/norm"]) == 9


def test_what_the_implementation_lacks_the_default_has_and_it_is_told(defaults):
    file(defaults, "chip/own", {"elementwise/norm": stream(9)})
    found = fits(defaults, {"elementwise": "own"})
    assert launch(found["elementwise/add"]) == 2
    assert found.notes == [
        "elementwise/add: chip has no fit of own for this operation; using the closest available fit, or the roofline "
        "if there is none"
    ]


def test_an_unknown_implementation_is_told_though_a_default_stands_in(defaults):
    found = fits(defaults, {"gemm": "nobody"})
    assert launch(found["gemm/bf16"]) == 3
    assert found.notes == [
        "gemm: chip has no measurements of nobody; using the closest available fit, or the roofline if there is none"
    ]


def test_an_implementation_for_one_variant_leaves_the_others_alone(defaults):
    file(defaults, "chip/own", {"gemm/bf16": stream(9), "gemm/fp32": stream(8)})
    found = fits(defaults, {"gemm/fp32": "own"})
    assert (launch(found["gemm/fp32"]), launch(found["gemm/bf16"])) == (8, 3)


def test_the_whole_family_of_the_implementation_comes_before_another_variant(defaults):
    file(defaults, "chip/own", {"gemm": stream(7), "gemm/fp16": stream(8)})
    found = fits(defaults, {"gemm": "own"})
    assert launch(found["gemm/bf16"]) == 7
    assert found["gemm/bf16"].basis == "fitted"


def test_a_sibling_that_extends_a_device_borrows_its_defaults_and_says_so(defaults):
    found = fits(defaults, device="sibling")
    assert launch(found["elementwise/norm"]) == 1
    assert found["elementwise/norm"].basis == "transferred"


def test_a_sibling_with_the_implementation_joins_the_own_default(defaults):
    file(defaults, "chip/own", {"gemm/bf16": stream(7)})
    file(defaults, "sibling/other", {"gemm/bf16": stream(8)})
    edit(defaults, "hardware/devices/sibling.yaml", "{inherit: chip}", "{inherit: chip, default: {gemm: other}}")
    found = fits(defaults, {"gemm": "own"}, "sibling")
    fit = found["gemm/bf16"]
    assert {launch(each) for each in (fit, *fit.others.fits) if each.source != "calibrations/prior"} >= {7, 8}
    assert len(found.notes) == 1
    assert launch(fits(defaults, device="sibling")["gemm/bf16"]) == 8


def test_the_nearest_variant_stands_in_as_transferred(defaults):
    found = fits(defaults)
    assert launch(found["gemm/fp16"]) == 3
    assert found["gemm/fp16"].basis == "transferred"
    assert found["elementwise/activation"].basis == "transferred"


@pytest.mark.parametrize("first", ["fp16", "bf16", "bf16_kvquant", "fp8", "fp8_block"])
def test_variants_that_are_nearest_to_each_other_end_at_the_roofline(world, first):
    found = fits(world)
    for variant in (first, "bf16", "fp16", "fp8_block", "fp8"):
        assert f"gemm/{variant}" not in found or found[f"gemm/{variant}"].basis == "roofline"
    assert Calibration("x", found).fit(PRODUCT).basis == "roofline"


def test_a_device_without_any_fit_of_a_family_takes_what_devices_share_and_no_lower_bound(world):
    found = Calibration("x", fits(world)).fit(PRODUCT)
    assert (found.source, found.basis) == ("calibrations/prior", "roofline")
    assert found.spread.low[0] < 1.0 < found.spread.high[0]


@pytest.mark.parametrize("device", ["chip", "sibling"])
def test_whole_runs_change_what_devices_share(world, device):
    before = Calibration("x", fits(world)).fit(PRODUCT).form
    chip = world / "hardware/devices/chip.yaml"
    whole_runs = "calibration: {whole_runs: {launch: 3 us, compute: 0.5, hbm: 0.8}}\n"
    write(world, "hardware/devices/chip.yaml", chip.read_text() + whole_runs)
    after = Calibration("x", fits(world, device=device)).fit(PRODUCT).form
    assert after.launch == pytest.approx(before.launch + 3e-6)
    assert after.compute_efficiency == pytest.approx(0.5 * before.compute_efficiency)
    assert after.hbm_efficiency == pytest.approx(0.8 * before.hbm_efficiency)


def test_whole_runs_leave_measured_kernels_alone(defaults):
    edit(defaults, "hardware/devices/chip.yaml", "calibration: {", "calibration: {whole_runs: {launch: 3 us}, ")
    assert launch(fits(defaults)["gemm/bf16"]) == 3


@pytest.mark.parametrize("first", ["softmax", "norm", "add"])
def test_whatever_is_asked_first_a_stream_finds_the_nearest_kind(defaults, first):
    found = fits(defaults)
    asked = [first, "softmax", "activation", "rotary", "norm", "add"]
    assert all(found.get(f"elementwise/{kind}") is not None for kind in asked)


def test_narrow_caches_stand_nearest_to_their_own_products():
    assert nearest_variants("attention_decode", "bf16_kvquant") == ("bf16", "fp16")
    assert nearest_variants("gemm", "int8") == ()


def test_files_are_read_when_an_operator_first_asks(world):
    write(world, "hardware/calibrations/chip/broken.yaml", "not: [a, calibration")
    found = fits(world, {"gemm": "broken"})
    assert found.get("elementwise") is not None
    with pytest.raises(InputError):
        found.get("gemm/bf16")


def test_a_default_that_names_no_file_is_an_error_with_the_name_that_was_meant(defaults):
    edit(defaults, "hardware/devices/chip.yaml", "gemm: usual", "gemm: usal")
    found = fits(defaults)
    assert launch(found["elementwise/norm"]) == 1
    with pytest.raises(InputError, match=r"there is no calibrations/chip/usal; did you mean `usual`\?"):
        found.get("gemm/bf16")


def test_a_missing_residual_file_is_an_error_at_its_path(world):
    file(world, "chip/own", {"gemm/bf16": stream(7)}, "residuals: gone.json\n")
    with pytest.raises(InputError, match=r"gone\.json: does not exist"):
        fits(world, {"gemm": "own"}).get("gemm/bf16")


def residuals(root, **changes):
    axes = list(ElementwiseForm.AXES)
    one = {"axes": axes, "lengths": [2.0] * len(axes), "centres": [[20.0] * len(axes)], "weights": [0.1]} | changes
    document = {"schema": "costmodel/residuals@1", "families": {"gemm/bf16": one}}
    return write(root, "hardware/calibrations/chip/own.json", json.dumps(document))


@pytest.mark.parametrize(
    "changes",
    [
        {"axes": ["other", "and", "more"]}, {"lengths": [0.0]}, {"lengths": []}, {"weights": []}, {"weights": ["x"]},
        {"centres": [[1.0], [2.0, 3.0]]}, {"centres": [[float("nan")]]}, {"weights": None},
        {"bump_lengths": [[2.0]]}, {"bump_lengths": [[0.0, 2.0]]}, {"bump_lengths": [[2.0, float("inf")]]},
        {"bump_lengths": None},
    ],
)  # fmt: skip
def test_damaged_residuals_are_errors_at_their_file(world, changes):
    with pytest.raises(InputError, match=r"own\.json"):
        read_residuals(residuals(world, **changes))


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": "other"}', '{"schema": "costmodel/residuals@1"}',
                                  '{"schema": "costmodel/residuals@1", "families": []}'])  # fmt: skip
def test_a_file_that_holds_no_residuals_is_an_error(world, text):
    with pytest.raises(InputError, match="fit the calibration again"):
        read_residuals(write(world, "x.json", text))


def test_a_domain_over_other_axes_than_the_form_is_an_error(world):
    file(world, "chip/own", {"gemm/bf16": stream(7, domain="{width: [1, 2]}", radius="0.5")})
    with pytest.raises(InputError, match=r"families\.gemm/bf16\.domain: is over width"):
        fits(world, {"gemm": "own"}).get("gemm/bf16")


def kernels(names="", frameworks="", timings=""):
    return f"frameworks: [{frameworks}]\nkernels: [{names}]\ntimings: [{timings}]\n"


@pytest.fixture
def shelf(world):
    """Return a root with three files of products and one of a sibling's."""
    file(world, "chip/a", {"gemm/bf16": stream(1)}, kernels("k1", '"vllm 1"', "graph"))
    file(world, "chip/b", {"gemm/bf16": stream(2)}, kernels("k2", '"vllm 2"', "graph"))
    file(world, "chip/c", {"gemm/bf16": stream(3)}, kernels("k2", '"sglang 1"', "event"))
    (world / "hardware/calibrations/chip/library.yaml").unlink()
    return world


def test_a_row_gets_the_file_of_its_kernel_else_the_nearest(shelf):
    chooser = Chooser("chip", [shelf])
    for kernel, why in (
        (Kernel("vllm 1", "k1", "graph"), "chip/a"),
        (Kernel("vllm 2", "k2", "graph"), "chip/b"),
        (Kernel("sglang 1", "k2", "event"), "chip/c"),
        (Kernel("", "k1", ""), "chip/a"),
        (Kernel("", "", "event"), "chip/c"),
        (Kernel("", "", ""), "chip/a"),
        (Kernel("vllm 9", "k2", "graph"), "chip/b (closest match for vllm 9)"),
        (Kernel("sglang 9", "k2", ""), "chip/c (closest match for sglang 9)"),
        (Kernel("other 1", "k1", "graph"), "chip/a (closest match for framework other 1)"),
        (Kernel("vllm 2", "unheard", "graph"), "chip/b (closest match for kernel unheard)"),
        (Kernel("sglang 1", "k2", "graph"), "chip/c (closest match for timing graph)"),
    ):
        assert chooser.choose("gemm", "bf16", kernel).why == why


def test_a_file_that_says_of_no_rows_that_they_are_its_own_does_not_answer_for_named_ones(shelf):
    file(shelf, "chip/aaa", {"gemm/bf16": stream(4)})
    choose = Chooser("chip", [shelf]).choose
    assert choose("gemm", "bf16", Kernel("vllm 2", "k2", "graph")).why == "chip/b"
    assert (
        choose("gemm", "bf16", Kernel("vllm 2", "unheard", "graph")).why == "chip/b (closest match for kernel unheard)"
    )


def test_a_file_without_kernels_has_those_of_its_frameworks_alone(shelf):
    file(shelf, "chip/aaa", {"gemm/bf16": stream(4)}, 'frameworks: ["trtllm 1"]\n')
    choose = Chooser("chip", [shelf]).choose
    assert choose("gemm", "bf16", Kernel("trtllm 1", "unheard", "graph")).why == "chip/aaa"
    assert (
        choose("gemm", "bf16", Kernel("vllm 2", "unheard", "graph")).why == "chip/b (closest match for kernel unheard)"
    )


def test_an_unknown_kernel_takes_the_library_that_its_name_holds(shelf):
    file(shelf, "chip/z", {"gemm/bf16": stream(4)}, kernels("k9", '"sglang 1"') + "library: triton\n")
    choice = Chooser("chip", [shelf]).choose("gemm", "bf16", Kernel("vllm 1", "fused (Triton kernel)", "graph"))
    assert choice.why == "chip/z (closest match for kernel fused (Triton kernel))"


def test_a_library_of_several_words_is_named_where_all_of_them_are(shelf):
    file(shelf, "chip/y", {"gemm/bf16": stream(4)}, kernels("k9", '"sglang 1"') + "library: fa9-vit\n")
    choose = Chooser("chip", [shelf]).choose
    assert choose("gemm", "bf16", Kernel("vllm 9", "vllm_vit_flash_attn_fa9", "")).why.startswith("chip/y")
    assert not choose("gemm", "bf16", Kernel("vllm 9", "flash_attn_fa9", "")).why.startswith("chip/y")


def test_rows_and_simulations_take_the_kernels_of_the_default_framework(shelf):
    shipped = Library([shelf]).find("default", "frameworks").read_text(encoding="utf-8")
    stated = shipped.replace("implementations: {}", "implementations: {gemm: own, bmm: own}")
    write(shelf, "hardware/frameworks/default.yaml", stated)
    file(shelf, "chip/own", {"gemm/bf16": stream(5), "bmm/bf16": stream(6)}, kernels("k5"))
    file(shelf, "chip/other", {"gemm/bf16": stream(7)}, kernels("k7"))
    choose = Chooser("chip", [shelf]).choose
    for simulated in (load_calibration("chip", "default", [shelf]), choose("gemm", "bf16", UNNAMED).calibration):
        assert launch(simulated.families["gemm/bf16"]) == 5
    named = choose("gemm", "bf16", Kernel("", "k7", "")).calibration.families
    assert (launch(named["gemm/bf16"]), launch(named["bmm/bf16"])) == (7, 6)  # a row's name is for its own family


def test_streams_in_the_rows_of_others_come_kind_by_kind(shelf):
    file(
        shelf, "chip/a", {"gemm/bf16": stream(1), "elementwise/permute": stream(5)}, kernels("k1", '"vllm 1"', "graph")
    )
    file(shelf, "chip/streams", {"elementwise/activation": stream(6)}, kernels("", '"other"'))
    found = Chooser("chip", [shelf]).choose("gemm", "bf16", Kernel("vllm 1", "k1", "graph")).calibration.families
    assert launch(found["elementwise/permute"]) == 5
    assert launch(found["elementwise/activation"]) == 6


def test_masked_groups_that_nobody_measured_rest_on_plain_ones(shelf):
    file(shelf, "chip/own", {"grouped_gemm/fp8_block": stream(4)})
    found = fits(shelf, {"grouped_gemm": "own"})["grouped_gemm/fp8_block_masked"]
    assert (launch(found), found.basis) == (4, "transferred")


def test_a_device_without_files_takes_its_siblings(shelf):
    choice = Chooser("sibling", [shelf]).choose("gemm", "bf16", Kernel("", "k2", "event"))
    assert choice.why == "chip/c (fit of chip)"
    assert choice.calibration.fit(PRODUCT).basis == "transferred"


def test_the_library_of_a_kernel_elsewhere_comes_before_another_one_here(shelf):
    file(shelf, "sibling/own", {"gemm/bf16": stream(4)}, kernels("k8", '"trtllm 1"') + "library: cutlass\n")
    file(shelf, "chip/d", {"gemm/bf16": stream(5)}, kernels("k9", '"vllm 3"') + "library: triton\n")
    choose = Chooser("sibling", [shelf]).choose
    assert choose("gemm", "bf16", Kernel("vllm 4", "new (Triton kernel)", "")).why == "chip/d (fit of chip)"
    assert choose("gemm", "bf16", Kernel("trtllm 2", "unheard", "")).why.startswith("sibling/own")


def test_a_variant_that_nobody_measured_names_what_stands_in(shelf):
    choice = Chooser("chip", [shelf]).choose("gemm", "fp16", Kernel("", "k2", ""))
    assert choice.why == "chip/b, gemm/bf16 substitutes for gemm/fp16"
    half = Gemm("x", m=64.0, n=64.0, k=64.0, dtype="fp16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0)
    assert choice.calibration.fit(half).basis == "transferred"
    assert launch(choice.calibration.fit(half)) == 2


def test_a_family_that_nobody_measured_rests_on_the_roofline(shelf):
    choice = Chooser("chip", [shelf]).choose("gemm", "int8", Kernel("", "k2", ""))
    assert choice.why == "no fit of gemm/int8 for chip; roofline used"


def test_one_file_prices_all_families_of_a_call(shelf):
    file(shelf, "chip/core", {"attention_prefill": stream(4), "attention_decode/bf16": stream(5)}, kernels("core"))
    choice = Chooser("chip", [shelf]).choose("attention_prefill", "bf16", Kernel("", "core", ""))
    assert launch(choice.calibration.families["attention_decode/bf16"]) == 5


def test_a_device_that_extends_another_borrows_from_it_unless_it_says_from_whom(defaults):
    write(defaults, "hardware/devices/child.yaml", """
schema: costmodel/device@1
extends: devices/chip
name: child
""")  # fmt: skip
    found = fits(defaults, device="child")
    assert launch(found["elementwise/norm"]) == 1
    assert found["elementwise/norm"].basis == "transferred"
    edit(defaults, "hardware/devices/child.yaml", "name: child", "name: child\ncalibration: {inherit: null}")
    assert "elementwise/norm" not in fits(defaults, device="child")


def test_the_first_of_several_implementations_that_the_device_has_is_taken(defaults):
    file(defaults, "chip/second", {"gemm/bf16": stream(6)})
    found = FitLookup(FitStore(Library([defaults])), "chip", {"gemm": ("first", "second")})
    assert launch(found["gemm/bf16"]) == 6
    assert found.notes == []
    both = FitLookup(FitStore(Library([defaults])), "chip", {"gemm": ("first", "third")})
    assert launch(both["gemm/bf16"]) == 3
    assert both.notes == [
        "gemm: chip has no measurements of first or third; using the closest available fit, or the roofline if there "
        "is none"
    ]


def test_products_stand_in_for_batched_ones(defaults):
    found = fits(defaults)
    assert launch(found["bmm/bf16"]) == 3
    assert found["bmm/bf16"].basis == "transferred"


def rate(share):
    return (
        f"{{compute_efficiency: {share}, spread: [{{time: 1 ms, low: 0.9, median: 1, high: 1.2, rows: 2}}], rows: 2}}"
    )


def published(root, name, library, families):
    """Write a file that states a published rate of a kernel which no table has rows of."""
    lines = "".join(f"\n  {key}: {value}" for key, value in families.items())
    write(root, f"hardware/calibrations/{name}.yaml", f"""
schema: costmodel/calibration@1
name: {name}
device: devices/chip
library: {library}
basis: fitted
families:{lines}
""")  # fmt: skip


def test_a_published_rate_prices_no_kernel_that_has_rows(shelf):
    published(shelf, "chip/aaa", "old", {"gemm": rate(0.3)})
    choose = Chooser("chip", [shelf]).choose
    assert choose("gemm", "bf16", Kernel("vllm 1", "k1", "graph")).why == "chip/a"
    assert choose("gemm", "bf16", Kernel("", "", "")).why == "chip/a"
    assert choose("gemm", "fp16", Kernel("vllm 1", "k1", "")).why == "chip/a, gemm/bf16 substitutes for gemm/fp16"
    assert choose("gemm", "bf16", Kernel("vllm 1", "old gemm", "graph")).why == "chip/aaa"


def test_a_published_rate_comes_before_the_roofline(shelf):
    published(shelf, "chip/aaa", "old", {"gemm/int8": rate(0.3)})
    assert Chooser("chip", [shelf]).choose("gemm", "int8", Kernel("vllm 1", "k1", "graph")).why.startswith("chip/aaa")


def test_of_equal_files_the_device_s_default_prices_a_row_that_names_no_kernel(shelf):
    edit(shelf, "hardware/devices/chip.yaml", "aliases:", "calibration: {default: {gemm: b}}\naliases:")
    assert Chooser("chip", [shelf]).choose("gemm", "bf16", Kernel("", "", "")).why == "chip/b"


def test_backward_cores_rest_on_the_forward_fit_of_the_row_s_own_kernel(shelf):
    file(shelf, "chip/core", {"attention_prefill/bf16": stream(4)}, kernels("core"))
    published(shelf, "chip/aaa", "old", {"attention_backward": rate(0.3)})
    assert Chooser("chip", [shelf]).choose("attention_backward", "", Kernel("", "core", "")).why.startswith("chip/aaa")
    found = Chooser("chip", [shelf]).choose("attention_backward", "bf16", Kernel("", "core", "")).why
    assert found == "chip/core, attention_prefill/bf16 substitutes for attention_backward/bf16"


def test_fp8_cores_rest_on_those_with_a_cache_as_narrow(shelf):
    file(shelf, "chip/core", {"attention_decode/bf16": stream(4), "attention_decode/bf16_kvquant": stream(5)})
    choice = Chooser("chip", [shelf]).choose("attention_decode", "fp8", Kernel("", "", ""))
    assert choice.why == "chip/core, attention_decode/bf16_kvquant substitutes for attention_decode/fp8"


SOURCES = """
schema: costmodel/calibration@1
name: sources
device: null
basis: fitted
families:
  same/gemm/bf16: {spread: [{time: 1 s, low: 0.8, median: 1, high: 1.25, rows: 30}], rows: 30}
  same: {spread: [{time: 1 s, low: 0.7, median: 1, high: 1.4, rows: 30}], rows: 30}
  other: {spread: [{time: 1 s, low: 0.5, median: 1, high: 2, rows: 30}], rows: 30}
"""


def test_only_rows_of_another_source_have_the_errors_between_sources(shelf):
    write(shelf, "hardware/calibrations/sources.yaml", SOURCES)
    chooser = Chooser("chip", [shelf])
    for kernel, high in (
        (Kernel("vllm 1", "k1", "graph"), None),
        (Kernel("", "k1", "graph"), None),
        (Kernel("", "k1", ""), 1.25),
        (Kernel("", "", ""), 2.0),
        (Kernel("vllm 9", "k2", "graph"), 1.25),
        (Kernel("sglang 1", "k2", "graph"), 1.25),
        (Kernel("vllm 1", "", ""), 1.25),
        (Kernel("vllm 2", "unheard", "graph"), 2.0),
    ):
        across = chooser.choose("gemm", "bf16", kernel).across
        assert (None if across is None else across.high[0]) == high, kernel


def test_kernels_that_no_two_sources_timed_differ_as_all_do(shelf):
    write(shelf, "hardware/calibrations/sources.yaml", SOURCES)
    file(shelf, "chip/a", {"bmm/bf16": stream(1)}, kernels("k1", '"vllm 1"', "graph"))
    across = Chooser("chip", [shelf]).choose("bmm", "bf16", Kernel("vllm 1", "k1", "event")).across
    assert across is not None
    assert across.high == (1.4,)


def test_a_published_rate_has_no_source_to_differ_from(shelf):
    write(shelf, "hardware/calibrations/sources.yaml", SOURCES)
    published(shelf, "chip/aaa", "old", {"gemm": rate(0.3)})
    assert Chooser("chip", [shelf]).choose("gemm", "bf16", Kernel("vllm 1", "old gemm", "graph")).across is None


@pytest.mark.parametrize("name", ["", "../..", "chip/", "box/own"])
def test_a_fit_is_called_as_its_file(world, name):
    """Other fits look it up by its name; one that leads elsewhere ended in a traceback."""
    path = file(world, "chip/own", {"elementwise": stream(3.0)})
    edit(world, "hardware/calibrations/chip/own.yaml", "name: chip/own", f"name: '{name}'")
    store = FitStore(Library([world]))
    with pytest.raises(InputError, match=r"is no name of a file|write `name: chip/own`"):
        store.device_fits("chip", "own")
    assert bool(validate(path, [world])) == (name != "box/own")

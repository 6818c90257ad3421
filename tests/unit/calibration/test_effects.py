"""How errors of fits go together: what kernels of other devices, builds, libraries and shapes do not share."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from costmodel.calibration.device_relations import relation
from costmodel.calibration.effects import Effects, Kernels, held_out_error
from costmodel.calibration.fit_files import FitStore, read
from costmodel.calibration.fit_lookup import FitLookup, load_calibration
from costmodel.cost.calibration import MeanFit
from costmodel.cost.spread import Spread, UnseenGroups
from costmodel.schema.calibration import FamilyEffectsFile, FamilyFitFile
from costmodel.schema.device import DeviceFile
from costmodel.schema.references import Library
from costmodel.workload.operators import Gemm
from reports.fits.unseen_groups import Errors, scatter

FAMILY = "grouped_gemm"
ASKED = Kernels("one", "a-1", "a")


def effects(**families: dict[str, float]) -> Effects:
    """Return effects of families. Devices of names that begin alike are of one die."""

    def related(one: str, other: str) -> str:
        return "own" if one == other else "die" if one[:3] == other[:3] else "other"

    return Effects({name: FamilyEffectsFile(**each) for name, each in families.items()}, related)


def device(name: str) -> DeviceFile:
    return read(Library(()), "devices", name, DeviceFile)


@pytest.mark.parametrize(
    ("own", "other", "related"),
    [
        ("h100-sxm", "h800-sxm", "twin"), ("h200-sxm", "h100-sxm", "twin"), ("h100-sxm", "h100-pcie", "die"),
        ("h20", "h100-sxm", "rebalanced"), ("a100-sxm-80gb", "a40", "architecture"),
        ("b300-sxm", "b200-sxm", "refresh"), ("gb300", "rtx-pro-6000", "architecture"),
        ("b200-sxm", "h100-sxm", "other"),
    ],
)  # fmt: skip
def test_devices_are_related_by_die_balance_and_architecture(own, other, related):
    assert relation(device(own), device(other), same=False) == related


def test_kernels_differ_by_their_devices_and_by_their_programs():
    known = effects(any={"die": 0.3, "other": 0.5, "build": 0.2, "library": 0.6}, gemm={"die": 0.1})
    for other, squares in (
        (Kernels("one", "a-1", "a"), ()), (Kernels("one+", "a-1", "a"), (0.1,)), (Kernels("two", "a-1", "a"), (0.5,)),
        (Kernels("one", "a-2", "a"), (0.2,)), (Kernels("two", "b", "b"), (0.5, 0.6)), (Kernels("", "", ""), ()),
    ):  # fmt: skip
        assert known.variogram("gemm", other, ASKED) == pytest.approx(sum(each**2 for each in squares))
    assert known.variogram("bmm", Kernels("one+", "a-1", "a"), ASKED) == pytest.approx(0.3**2)


def test_another_die_of_the_architecture_is_no_farther_than_any_die_where_it_was_not_measured():
    known = Effects(
        {"gemm": FamilyEffectsFile(other=0.2), "any": FamilyEffectsFile(architecture=0.7)}, lambda *_: "architecture"
    )
    assert known.variogram("gemm", Kernels("two", "a-1", "a"), ASKED) == pytest.approx(0.2**2)
    assert known.variogram("bmm", Kernels("two", "a-1", "a"), ASKED) == pytest.approx(0.7**2)


def test_errors_go_together_by_what_fits_share_and_no_weight_is_of_one_vote_twice():
    known = effects(any={"die": 0.3, "other": 0.5, "build": 0.2, "library": 0.6})
    fits = [Kernels(*each) for each in itertools.product(("one", "one+", "two"), ("a-1", "a-2", "b"), ("a",))]
    covariance = np.array(known.covariance("gemm", ASKED, [*fits, Kernels("", "", "")], [0.1] * len(fits) + [0.4]))
    assert np.linalg.eigvalsh(covariance).min() > 0.0
    assert covariance[0, 0] == pytest.approx(0.1**2)
    two = covariance[np.ix_([6, 7], [6, 7])]  # of device `two` both: what it does not share is one error
    assert two[0, 1] == pytest.approx((0.5**2 + 0.5**2 + 0.2**2 - 0.2**2) / 2.0)
    assert covariance[-1, :-1].max() <= 0.4**2  # what all kernels share errs by no more


def test_a_generation_without_fits_widens_what_others_lend_it_and_moves_no_weight():
    hidden = frozenset(name for name in Library(()).names("devices") if device(name).architecture == "blackwell")
    without, store = (FitStore(Library(()), hidden, generation) for generation in (0.0, None))
    product = Gemm("x", m=4096.0, n=4096.0, k=4096.0, dtype="bf16", a_bytes=2.0, b_bytes=2.0, out_bytes=2.0)
    for name, adds in (("b200-sxm", store.effects.generation), ("h100-sxm", 0.0)):
        assert store.novelty(name) == adds
        fits = [FitLookup(each, name, {})["gemm/bf16"].at(product) for each in (without, store)]
        before, after = (
            math.log(each.spread.high[0]) if not isinstance(each, MeanFit) else each.spread.half for each in fits
        )
        assert after == pytest.approx(math.hypot(before, adds))
        assert getattr(fits[0], "weights", ()) == pytest.approx(getattr(fits[1], "weights", ()))


def test_at_tuned_layers_builds_of_a_library_share_more_and_other_libraries_do_not():
    known = effects(gemm={"die": 0.3, "build": 0.4, "tuned": 0.1, "library": 0.6})
    fits = [Kernels("one", "a-2", "a"), Kernels("one+", "a-2", "a"), Kernels("one", "b", "b")]
    default, tuned = (
        np.array(known.covariance("gemm", ASKED, fits, [0.1] * 3, is_tuned=is_tuned)) for is_tuned in (False, True)
    )
    assert tuned[0, 0] == pytest.approx(0.1**2 + 0.1**2)
    assert tuned[0, 1] == pytest.approx(0.1**2)  # what both lack of the build that is asked for
    assert tuned[2, 2] == default[2, 2]
    assert np.linalg.eigvalsh(tuned).min() > 0.0


@pytest.mark.parametrize("name", ["h100-sxm", "a100-sxm-80gb", "b200-sxm", "h20", "l40s", "gb300"])
@pytest.mark.parametrize("framework", ["vllm", "sglang", "megatron", "default"])
def test_errors_of_all_fits_that_answer_have_a_covariance(name: str, framework: str) -> None:
    fits = load_calibration(name, framework).families
    for key in ("gemm/bf16", "gemm/fp8_block", "grouped_gemm/bf16", "mla_decode/bf16", "attention_prefill/bf16"):
        fit = fits.get(key)
        if fit is None or fit.others is None:
            continue
        for covariance in (fit.others.covariance, fit.others.tuned or fit.others.covariance):
            assert np.linalg.eigvalsh(np.array(covariance)).min() > 0.0, key


def test_a_further_error_widens_both_sides_of_a_spread_in_quadrature():
    spread = Spread((1.0,), (0.8,), (1.0,), (1.25,)).widened(math.log(1.25))
    assert spread.high[0] == pytest.approx(1.25 ** math.sqrt(2.0))
    assert spread.low[0] == pytest.approx(0.8 ** math.sqrt(2.0))


def test_families_have_their_own_distances_and_others_those_of_all() -> None:
    known = effects(any={"unseen": 0.3, "beyond": 0.3}, **{FAMILY: {"unseen": 0.2, "beyond": 0.1}})
    assert known.unseen(f"{FAMILY}/bf16", is_shape_wise=True) == UnseenGroups(0.2, 0.1)
    assert known.unseen(f"{FAMILY}/bf16", is_shape_wise=False) == UnseenGroups(0.0, 0.1)
    assert known.unseen("gemm/bf16", is_shape_wise=True) == UnseenGroups(0.3, 0.3)
    assert effects(gemm={}).unseen("bmm", is_shape_wise=True) is None


def test_the_shipped_effects_are_those_of_every_family_with_fits() -> None:
    store = FitStore(Library(()))
    families = store.effects.families
    assert {"any", "gemm", "attention_decode", "mla_prefill", FAMILY} <= set(families)
    assert all(
        getattr(families["any"], name) for name in ("die", "refresh", "architecture", "other", "build", "library")
    )


def test_the_growth_of_errors_with_the_distance_is_recovered() -> None:
    draws = np.random.default_rng(1)
    beyond = draws.uniform(0.0, 12.0, 4000)
    errors = np.hypot(0.1, 0.25 * beyond) * draws.exponential(1.0, 4000)
    inside, each = scatter([Errors(FAMILY, beyond, errors, has_new_groups=True)])
    scale = math.log(5.0)  # the 80 % point of an exponential error over its mean
    assert inside == pytest.approx(0.1 * scale, rel=0.25)
    assert each == pytest.approx(0.25 * scale, rel=0.1)


def test_the_error_of_a_fit_without_rows_of_its_own_is_half_its_spread_on_average():
    ends = {"1 us": (0.5, 2.0), "1 ms": (0.8, 1.25)}
    knots = [{"time": at, "median": 1.0, "rows": 0, "low": low, "high": high} for at, (low, high) in ends.items()]
    stated = FamilyFitFile.model_validate({"spread": knots, "rows": 0})
    assert held_out_error(stated) == pytest.approx((math.log(4.0) + math.log(1.5625)) / 4.0)

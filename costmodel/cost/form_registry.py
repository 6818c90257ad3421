"""The physical forms of kernels by the name that files call them."""

from __future__ import annotations

from costmodel.cost.attention import DecodeForm, LatentForm, PrefillForm
from costmodel.cost.calibration import Form
from costmodel.cost.collective import CollectiveForm
from costmodel.cost.elementwise import ElementwiseForm
from costmodel.cost.expected_roofline import ExpectedForm
from costmodel.cost.expert_all_to_all import LowLatencyForm, NormalForm
from costmodel.cost.gemm import GemmForm, TwoTileForm
from costmodel.cost.mixed_attention import SelectedForm, VarlenForm
from costmodel.cost.scaled_roofline import ScaledRooflineForm
from costmodel.cost.scan import ScanForm
from costmodel.cost.xqa import XqaForm

FORMS: dict[str, type[Form]] = {
    "gemm": GemmForm,
    "two_tile_gemm": TwoTileForm,
    "scaled_roofline": ScaledRooflineForm,
    "expected": ExpectedForm,
    "prefill": PrefillForm,
    "decode": DecodeForm,
    "latent": LatentForm,
    "xqa": XqaForm,
    "varlen": VarlenForm,
    "scan": ScanForm,
    "selected": SelectedForm,
    "elementwise": ElementwiseForm,
    "collective": CollectiveForm,
    "low_latency": LowLatencyForm,
    "normal": NormalForm,
}

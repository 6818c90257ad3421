"""The physical forms of kernels as a calibration file states them: their fitted parameters and what was given."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from costmodel.schema.fields import number_at
from costmodel.schema.message_forms import MESSAGE_FORMS, CollectiveFormFile, LowLatencyFormFile, NormalFormFile
from costmodel.schema.quantity import Integer, Measure, Ratio, Time
from costmodel.schema.strict import Strict

Splits: TypeAlias = Literal["never", "once", "twice", "xqa", "fa2", "fa2_shared", "fa3"]
Tile: TypeAlias = Annotated[list[Integer], Field(min_length=2, max_length=2)]


class GemmFormFile(Strict):
    """Matrix products: tiles in waves, loads, cache, memory."""

    kind: Literal["gemm"] = Field(description="this form")
    launch: Time = Field(description="fixed time")
    compute: Ratio = Field(description="share of the dense peak")
    memory: Ratio = Field(description="share of the memory bandwidth")
    load: Ratio = Field(description="bytes that one processor loads a cycle")
    cache: Ratio = Field(description="bytes that L2 gives one processor a cycle, all loading")
    fill: Ratio = Field(description="cycles of a block's start and end")
    turn: Ratio = Field(description="cycles of the shortest step along K, of 128 bytes")
    edge: Ratio = Field(description="loss of small tiles, at 16 rows or columns")
    sharpness: Ratio = Field(description="exponent that joins times which overlap")
    split: Ratio | None = Field(default=None, description="bytes that one partial sum of a split K costs")
    combine: Time | None = Field(default=None, description="fixed time where K is split")
    sag: Ratio | None = Field(default=None, description="slowdown of the clock at full load")
    dirty: Ratio | None = Field(default=None, description="bytes that leave L2 for each of the first that enter")
    ramp: Ratio | None = Field(default=None, description="bytes that are the first")
    sync: Ratio | None = Field(default=None, description="cycles of a step along K that blocks that load together wait")
    exposed: Ratio | None = Field(default=None, description="share of promotion and scaling that nothing hides")
    overhang: Ratio | None = Field(default=None, description="loss of a block that reaches over the last row")
    shared: Ratio | None = Field(default=None, description="clusters of rows that such a loss is shared by")
    refetch: Ratio | None = Field(default=None, description="share of reads that are made again beyond L2")
    reach: Ratio | None = Field(default=None, description="size of an operand from where on they are, over L2")
    cached: Ratio | None = Field(default=None, description="speed of L2 in a warm benchmark, over the bandwidth")
    copies: Ratio | None = Field(default=None, description="weights that take turns in a warm benchmark")
    resident: Ratio | None = Field(default=None, description="share of L2 that holds activations in a warm benchmark")
    scan: Time | None = Field(default=None, description="what a group of the call adds, with rows or without")
    tiles: list[Tile] = Field(min_length=1, description="candidate tiles, rows by columns")
    splits: bool = Field(description="the library splits K")
    rule: Literal["fastest", "waves", "rows"] = Field(
        default="fastest", description="how the library takes a tile: the fastest, of fewest waves, or by rows"
    )
    paired: Integer | None = Field(default=None, description="rows from which on two blocks load together")
    limits: list[Integer] = Field(default=[], description="largest rows of each tile but the last, under `rows`")
    clusters: list[Tile] = Field(default=[], description="tiles launched together, of each tile: rows by columns")


class SwitchedFormFile(Strict):
    """Grouped products of a library that takes one tile for few tokens and another one for many."""

    kind: Literal["switched"] = Field(description="this form")
    launch: Time = Field(description="fixed time")
    memory: Ratio = Field(description="share of the memory bandwidth")
    sharpness: Ratio = Field(description="exponent that joins times which overlap")
    few_compute: Ratio = Field(description="share of the dense peak with few tokens")
    few_load: Ratio = Field(description="bytes that one processor loads a cycle with few tokens")
    few_cache: Ratio = Field(description="bytes that L2 gives one processor a cycle with few tokens")
    few_fill: Ratio = Field(description="cycles of a block's start and end with few tokens")
    few_turn: Ratio = Field(description="cycles of the shortest step along K, of 128 bytes, with few tokens")
    few_edge: Ratio = Field(description="loss of small tiles with few tokens, at 16 rows or columns")
    compute: Ratio = Field(description="share of the dense peak with many tokens")
    load: Ratio = Field(description="bytes that one processor loads a cycle with many tokens")
    cache: Ratio = Field(description="bytes that L2 gives one processor a cycle with many tokens")
    fill: Ratio = Field(description="cycles of a block's start and end with many tokens")
    turn: Ratio = Field(description="cycles of the shortest step along K, of 128 bytes, with many tokens")
    edge: Ratio = Field(description="loss of small tiles with many tokens, at 16 rows or columns")
    sag: Ratio | None = Field(default=None, description="slowdown of the clock at full load")
    refetch: Ratio | None = Field(default=None, description="share of reads that are made again beyond L2")
    reach: Ratio | None = Field(default=None, description="size of an operand from where on they are, over L2")
    few_tiles: list[Tile] = Field(min_length=1, description="candidate tiles with few tokens, rows by columns")
    tiles: list[Tile] = Field(min_length=1, description="candidate tiles with many tokens, rows by columns")


class PlainFormFile(Strict):
    """Kernels of which few sizes are measured: work and bytes at shares of the peaks."""

    kind: Literal["plain"] = Field(description="this form")
    launch: Time = Field(description="fixed time")
    compute: Ratio = Field(description="share of the dense peak")
    memory: Ratio = Field(description="share of the memory bandwidth")


class PrefillFormFile(Strict):
    """Cores whose blocks take a tile of queries each."""

    kind: Literal["prefill"] = Field(description="this form")
    launch: Time = Field(description="fixed time")
    compute: Ratio = Field(description="share of the dense peak that full processors reach")
    alone: Ratio = Field(description="the same of a block by itself")
    memory: Ratio = Field(description="share of the memory bandwidth")
    fill: Ratio = Field(description="cycles of a block's start and end")
    reach: Ratio = Field(description="the same for each element of a head's key and value")
    tail: Ratio = Field(description="share lost of a wave that is not full")
    balance: Ratio = Field(description="exponent that joins the longest block and the whole grid")
    sharpness: Ratio = Field(description="exponent that joins times which overlap")
    scatter: Ratio = Field(description="how much more a byte of the cache costs than one of the queries")
    combine: Time = Field(description="fixed time where keys are split")
    packed: bool = Field(description="queries that share a key head fill one tile")
    splits: Splits = Field(description="rule by which keys are split over blocks")
    tiles: list[Tile] = Field(min_length=1, description="candidate tiles, queries by keys")


class DecodeFormFile(Strict):
    """Cores that read a cache for a few queries."""

    kind: Literal["decode"] = Field(description="this form")
    launch: Time = Field(description="fixed time")
    gather: Time = Field(description="fixed time where queries share a key head")
    regroup: Time = Field(description="fixed time where they do, with several key heads and sequences")
    pad: Time = Field(description="fixed time where a head's width is no power of two")
    compute: Ratio = Field(description="share of the dense peak")
    memory: Ratio = Field(description="share of the memory bandwidth")
    load: Ratio = Field(description="bytes that one processor loads a cycle")
    cache: Ratio = Field(description="bytes that L2 gives one processor a cycle, all loading")
    resident: Ratio = Field(description="share of L2 that a repeated run finds again")
    fill: Ratio = Field(description="cycles of a block's start and end")
    reach: Ratio = Field(description="the same for each element of a head's key and value")
    combine: Time = Field(description="fixed time where keys are split")
    merge: Time = Field(description="the same for each split")
    crowd: Ratio = Field(description="how much slower two neighbouring processors are than one")
    sharpness: Ratio = Field(description="exponent that joins times which overlap")
    packed: bool = Field(description="queries that share a key head are one block")
    splits: Splits = Field(description="rule by which keys are split over blocks")
    rows: Integer = Field(description="query rows of a tile")
    elements: Integer = Field(description="elements of keys and values in a tile")
    slots: Integer = Field(description="blocks that a processor holds")


class LatentFormFile(DecodeFormFile):
    """The same where all query heads share one cache (MLA)."""

    kind: Literal["latent"] = Field(description="this form")  # type: ignore[assignment]


class XqaFormFile(Strict):
    """Decoding with one kernel for query heads that share a cache, and one for those that do not (`single_…`)."""

    kind: Literal["xqa"] = Field(description="this form")
    launch: Time = Field(description="fixed time")
    compute: Ratio = Field(description="share of the dense peak")
    memory: Ratio = Field(description="share of the memory bandwidth")
    load: Ratio = Field(description="bytes that one processor loads a cycle")
    cache: Ratio = Field(description="bytes that L2 gives one processor a cycle, all loading")
    resident: Ratio = Field(description="share of L2 that a repeated run finds again")
    fill: Ratio = Field(description="cycles of a block's start and end")
    reach: Ratio = Field(description="the same for each element of a head's key and value")
    combine: Time = Field(description="fixed time where keys are split")
    merge: Time = Field(description="the same for each split")
    sharpness: Ratio = Field(description="exponent that joins times which overlap")
    single_launch: Time = Field(description="fixed time of the other kernel")
    single_compute: Ratio = Field(description="its share of the dense peak")
    single_load: Ratio = Field(description="bytes that it loads a cycle on one processor")
    single_fill: Ratio = Field(description="cycles of its blocks' start and end")
    single_reach: Ratio = Field(description="the same for each element of a head's key and value")
    single_combine: Time = Field(description="its fixed time where keys are split")
    single_merge: Time = Field(description="the same for each split")
    splits: Splits = Field(description="rule by which the first kernel splits keys over blocks")
    single_splits: Splits = Field(description="the other kernel's rule")
    rows: Integer = Field(description="query rows of a tile")
    elements: Integer = Field(description="elements of keys and values in a tile")
    slots: Integer = Field(description="blocks that a processor holds")
    widest: Integer = Field(description="queries that share a key head, up to which the first kernel runs")
    blocks: Integer = Field(description="the first kernel runs where this times the blocks fill the processors")
    tile: Integer | None = Field(default=None, description="keys that the first kernel does not split; null: a tile")
    single_elements: Integer | None = Field(default=None, description="the same for the other kernel, in elements")
    single_parted: Ratio | None = Field(default=None, description="bytes that it loads a cycle where keys are split")
    each: Ratio | None = Field(default=None, description="cycles of the first kernel for each element of each query")
    plain_launch: Time | None = Field(default=None, description="fixed time of the kernel for narrow shared heads")
    plain_fill: Ratio | None = Field(default=None, description="cycles of its blocks' start and end")
    plain_width: Integer | None = Field(default=None, description="elements of key and value up to which that one runs")
    padded: Integer | None = Field(default=None, description="queries of a key head come in multiples of this")
    plain_slots: Integer | None = Field(default=None, description="blocks of that one that a processor holds")
    slot_elements: Integer | None = Field(
        default=None, description="queries times width of the first kernel's blocks on one processor; null: any"
    )


class VarlenFormFile(Strict):
    """Several populations of sequences in one kernel."""

    kind: Literal["varlen"] = Field(description="this form")
    launch: Time = Field(description="fixed time")
    compute: Ratio = Field(description="share of the dense peak that full processors reach")
    alone: Ratio = Field(description="the same of a block by itself")
    memory: Ratio = Field(description="share of the memory bandwidth")
    fill: Ratio = Field(description="cycles of a block's start and end")
    idle: Ratio = Field(description="cycles of a block without work")
    tail: Ratio = Field(description="share lost of a wave that is not full")
    resident: Ratio = Field(description="share of L2 that holds the caches of one key head")
    balance: Ratio = Field(description="exponent that joins the longest block and the whole grid")
    sharpness: Ratio = Field(description="exponent that joins times which overlap")
    tile: Tile = Field(description="queries by keys")
    slots: Integer = Field(description="blocks that a processor holds")


class StreamFormFile(Strict):
    """Kernels that only stream."""

    kind: Literal["stream"] = Field(description="this form")
    launch: Time = Field(description="fixed time")
    memory: Ratio = Field(description="share of the memory bandwidth")
    cached: Ratio = Field(description="the same for bytes that stay in L2")
    resident: Ratio = Field(description="share of L2 that holds them")
    load: Ratio = Field(description="bytes that one row's block moves a cycle")
    fill: Ratio = Field(description="cycles of a processor that a row costs beside its bytes")


FORM_FILES: dict[str, type[Strict]] = {
    "gemm": GemmFormFile,
    "switched": SwitchedFormFile,
    "plain": PlainFormFile,
    "prefill": PrefillFormFile,
    "decode": DecodeFormFile,
    "latent": LatentFormFile,
    "xqa": XqaFormFile,
    "varlen": VarlenFormFile,
    "stream": StreamFormFile,
    **MESSAGE_FORMS,
}

FormFile: TypeAlias = Annotated[
    GemmFormFile
    | SwitchedFormFile
    | PlainFormFile
    | PrefillFormFile
    | DecodeFormFile
    | LatentFormFile
    | XqaFormFile
    | VarlenFormFile
    | StreamFormFile
    | CollectiveFormFile
    | LowLatencyFormFile
    | NormalFormFile,
    Field(discriminator="kind"),
]


def dimension(form: str, name: str) -> str | None:
    """Return the dimension of a field of a form, null where it is no quantity."""
    number = number_at(FORM_FILES[form], [name])
    return number.dimension if isinstance(number, Measure) else None


def parameter(form: str, name: str) -> str:
    """Return the dimension of a form's parameter. Raises KeyError where the form has none of that name."""
    found = dimension(form, name)
    if found is None:
        raise KeyError(f"{name} of {form} has no dimension")
    return found

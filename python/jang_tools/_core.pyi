"""
The C++ core of jang_tools; private: use the package's public names.
"""
from __future__ import annotations
import collections.abc
import numpy
import numpy.typing
import os
import typing
__all__: list[str] = ['Allocation', 'CandidateLoss', 'Checkpoint', 'ConversionNeeds', 'ConvertReport', 'Fault', 'FloorRow', 'InspectedTensor', 'Inspection', 'KvCache', 'LatticeSummary', 'LockStep', 'Model', 'ModuleLoss', 'OptionScorer', 'Plan', 'PlanFile', 'PlannedCalibration', 'PlannedLayers', 'PlannedShards', 'PlannedTensor', 'Profile', 'RoleRow', 'Sampler', 'ShardLayout', 'Statistics', 'TensorError', 'TensorInfo', 'UpgradeChange', 'UpgradePlan', 'Verification', 'collect_statistics', 'compared_files', 'conversion_needs', 'convert_directory', 'dequantize', 'feed_schedule', 'finish_planned', 'inspect_directory', 'k_profile_targets', 'layer_point_name', 'make_plan_file', 'measure_losses', 'merge_statistics', 'normalize_json', 'pack', 'parse_header', 'parse_plan_file', 'parse_profile', 'plan_directory', 'plan_upgrade', 'profiles', 'quantize', 'resume_bytes', 'runtime_info', 'shard_checksums', 'unpack', 'upgrade_directory', 'verify_directory']
class TensorInfo:
    """
    A tensor as its file's header describes it.
    """
    def __repr__(self) -> str:
        ...
    @property
    def begin(self) -> int:
        """
        byte offset of the payload in the file
        """
    @property
    def bytes(self) -> int:
        """
        bytes of the payload
        """
    @property
    def dtype(self) -> str:
        """
        safetensors spelling: "BF16"
        """
    @property
    def file(self) -> str:
        """
        bare name of the file that holds it
        """
    @property
    def name(self) -> str:
        ...
    @property
    def shape(self) -> tuple[typing.Any, ...]:
        """
        tuple of int
        """
class Checkpoint:
    """
    A directory of safetensors files as one namespace of tensors, mapped read-only and validated.
    """
    def __init__(self, path: os.PathLike[str] | str | bytes, headers_only: bool = False) -> None:
        """
        Opens every weight file of a directory and validates all headers and their agreement with the index. With headers_only payloads may be missing and cannot be read. Raises FormatError, UnsupportedError or IoError naming file and tensor.
        """
    def array(self, name: str) -> numpy.ndarray:
        """
        The tensor as a read-only numpy array of its shape: a view that keeps the mapping alive, or a copy where the payload is misaligned. BF16 comes as uint16. Raises FormatError if there is no such tensor or no array can have its shape, ArgumentError with headers_only.
        """
    def dtype(self, name: str) -> str:
        """
        safetensors spelling of the tensor's dtype: "BF16"
        """
    @property
    def file_bytes(self) -> int:
        """
        sum of their sizes in bytes
        """
    @property
    def files(self) -> list[str]:
        """
        bare names of the weight files
        """
    @property
    def tensors(self) -> list[TensorInfo]:
        """
        list of TensorInfo, by name
        """
class Statistics:
    """
    A statistics file, checked when it is opened.
    """
    def __init__(self, path: str) -> None:
        """
        Raises FormatError, UnsupportedError or IoError.
        """
    def counts(self) -> dict[str, typing.Any]:
        """
        By module path int64 [1] or [experts]: tokens that were added.
        """
    def mean_squares(self) -> dict[str, typing.Any]:
        """
        By module path float32 [columns] or [experts, columns]: mean squares of the inputs.
        """
    @property
    def model_sha256(self) -> str:
        ...
    @property
    def sequences(self) -> int:
        ...
    @property
    def text_sha256(self) -> list[str]:
        """
        Of every text, in the order in which they were added.
        """
    @property
    def tokenizer_sha256(self) -> str:
        ...
    @property
    def tokens(self) -> int:
        ...
class CandidateLoss:
    """
    What a format costs a module.
    """
    @property
    def bits(self) -> int:
        ...
    @property
    def error(self) -> float:
        """
        Relative squared error, weighted.
        """
    @property
    def group_size(self) -> int:
        ...
class ModuleLoss:
    """
    What the formats of a module cost.
    """
    @property
    def errors(self) -> list[CandidateLoss]:
        ...
    @property
    def sensitivity(self) -> float | None:
        """
        What a unit of error costs; None: the prior's.
        """
    @sensitivity.setter
    def sensitivity(self, arg0: typing.SupportsFloat | typing.SupportsIndex | None) -> None:
        ...
class RoleRow:
    """
    The tensors of one role together.
    """
    @property
    def bits(self) -> float:
        """
        Mean width of the codes, or of the elements where unquantized.
        """
    @property
    def bytes(self) -> int:
        """
        Payload bytes, scales and biases included.
        """
    @property
    def role(self) -> str:
        ...
    @property
    def tensors(self) -> int:
        ...
    @property
    def weights(self) -> int:
        ...
class PlannedTensor:
    """
    A final tensor and how it is stored.
    """
    @property
    def bits(self) -> int | None:
        """
        Width of the codes; None if unquantized.
        """
    @property
    def bytes(self) -> int:
        ...
    @property
    def dtype(self) -> str:
        """
        Of scales and biases, or of the tensor where unquantized.
        """
    @property
    def group_size(self) -> int | None:
        """
        None if unquantized.
        """
    @property
    def name(self) -> str:
        ...
    @property
    def obstacle(self) -> str:
        """
        Why the tensor can be planned but not converted, or empty.
        """
    @property
    def path(self) -> str:
        """
        Module path: the name without .weight.
        """
    @property
    def role(self) -> str:
        ...
    @property
    def shape(self) -> tuple[typing.Any, ...]:
        """
        Logical shape: [experts,] out, in.
        """
    @property
    def source(self) -> str:
        """
        Source tensor; '*' stands for the number of a stacked expert.
        """
    @property
    def weights(self) -> int:
        ...
class FloorRow:
    """
    The lowest width allocation gives to a kind of matrix.
    """
    @property
    def binding(self) -> int:
        """
        Modules that would have got less.
        """
    @property
    def bits(self) -> int:
        """
        What holds.
        """
    @property
    def modules(self) -> int:
        ...
    @property
    def name(self) -> str:
        ...
    @property
    def wanted(self) -> int:
        """
        Bits of the table.
        """
class Allocation:
    """
    What was asked of a size, and what can be had.
    """
    @property
    def floors(self) -> list[FloorRow]:
        ...
    @property
    def highest_bytes(self) -> int:
        ...
    @property
    def lowest_bytes(self) -> int:
        ...
    @property
    def measured(self) -> bool:
        """
        Losses were given, not the prior's.
        """
    @property
    def requested_bits(self) -> float | None:
        ...
    @property
    def requested_bytes(self) -> int:
        ...
class Plan:
    """
    The widths that a conversion would choose, and their sizes.
    """
    @property
    def activation_dtype(self) -> str:
        ...
    @property
    def allocation(self) -> Allocation | None:
        """
        Of plans for a size, else None.
        """
    @property
    def attention_bits(self) -> int:
        ...
    @property
    def average_bits(self) -> float:
        """
        Codes of quantized weights.
        """
    @property
    def average_bits_stored(self) -> float:
        """
        With scales and biases.
        """
    @property
    def bits_per_weight(self) -> float:
        """
        8 * file_bytes / parameters.
        """
    @property
    def file_bytes(self) -> int:
        """
        Exact size of all weight files.
        """
    @property
    def mlp_bits(self) -> int:
        ...
    @property
    def parameters(self) -> int:
        ...
    @property
    def payload_bytes(self) -> int:
        ...
    @property
    def prior_loss(self) -> float:
        """
        Expected loss by the prior, in no unit: to compare plans of one model.
        """
    @property
    def profile(self) -> str:
        ...
    @property
    def roles(self) -> list[RoleRow]:
        ...
    @property
    def shards(self) -> list[list[int]]:
        """
        Indices into tensors.
        """
    @property
    def target_bits(self) -> float | None:
        ...
    @property
    def tensors(self) -> list[PlannedTensor]:
        """
        In the order in which they are written.
        """
    @property
    def tied_head(self) -> bool:
        ...
    @property
    def warnings(self) -> list[str]:
        ...
class Profile:
    """
    A row of the profile table: bits by column.
    """
    @property
    def attention(self) -> int:
        ...
    @property
    def embedding(self) -> int:
        ...
    @property
    def head(self) -> int:
        ...
    @property
    def mlp(self) -> int:
        ...
    @property
    def name(self) -> str:
        ...
    @property
    def published_average(self) -> float:
        ...
class LatticeSummary:
    """
    Tensors stored on the lattice that their source lies on.
    """
    @property
    def groups(self) -> int:
        ...
    @property
    def lossless_groups(self) -> int:
        ...
    @property
    def lossless_tensors(self) -> int:
        """
        Those of which no group loses anything.
        """
    @property
    def tensors(self) -> int:
        ...
class ConvertReport:
    """
    What a conversion wrote.
    """
    @property
    def file_bytes(self) -> int:
        """
        Bytes of all weight files.
        """
    @property
    def files(self) -> list[str]:
        """
        Bare names written, in order.
        """
    @property
    def lattices(self) -> LatticeSummary:
        ...
    @property
    def plan(self) -> Plan:
        """
        The plan, as run.
        """
    @property
    def seconds(self) -> float:
        ...
    @property
    def warnings(self) -> list[str]:
        ...
class ConversionNeeds:
    """
    What a conversion takes beside its output.
    """
    @property
    def memory(self) -> list[tuple[str, int]]:
        """
        (what, bytes) of all that is held at the same time, the largest first.
        """
    @property
    def memory_bytes(self) -> int:
        """
        The peak of anonymous memory: their sum.
        """
    @property
    def scratch_bytes(self) -> int:
        """
        Disk space of files that calibration writes and removes.
        """
    @property
    def threads(self) -> int:
        """
        That this holds for.
        """
class InspectedTensor:
    """
    A quantized module or a plain tensor; the shape is logical.
    """
    @property
    def bits(self) -> int | None:
        ...
    @property
    def bytes(self) -> int:
        ...
    @property
    def dtype(self) -> str:
        ...
    @property
    def file(self) -> str:
        ...
    @property
    def group_size(self) -> int | None:
        ...
    @property
    def name(self) -> str:
        ...
    @property
    def shape(self) -> list[int]:
        ...
class Inspection:
    """
    What a directory holds.
    """
    @property
    def average_bits(self) -> float:
        ...
    @property
    def bits_per_weight(self) -> float:
        ...
    @property
    def bytes(self) -> int:
        """
        Bytes of all weight files.
        """
    @property
    def format(self) -> str:
        """
        jang, jang-v1, mlx or hf.
        """
    @property
    def method(self) -> str | None:
        ...
    @property
    def model_type(self) -> str:
        ...
    @property
    def parameters(self) -> int:
        ...
    @property
    def profile(self) -> str | None:
        ...
    @property
    def roles(self) -> list[RoleRow]:
        ...
    @property
    def tensors(self) -> list[InspectedTensor]:
        ...
class Fault:
    """
    One thing that is wrong with a directory.
    """
    @property
    def code(self) -> str:
        ...
    @property
    def file(self) -> str:
        ...
    @property
    def message(self) -> str:
        ...
    @property
    def tensor(self) -> str:
        ...
class TensorError:
    """
    A quantized module against its source.
    """
    @property
    def bound(self) -> float:
        """
        What relative_rms may be.
        """
    @property
    def max_abs(self) -> float:
        ...
    @property
    def path(self) -> str:
        ...
    @property
    def relative_rms(self) -> float:
        ...
class Verification:
    """
    Faults, notices, and errors by tensor.
    """
    @property
    def faults(self) -> list[Fault]:
        ...
    @property
    def notices(self) -> list[str]:
        ...
    @property
    def tensors(self) -> list[TensorError]:
        ...
class UpgradeChange:
    """
    One thing that an upgrade changes.
    """
    @property
    def tensor(self) -> str:
        """
        Empty: the directory.
        """
    @property
    def what(self) -> str:
        ...
    @property
    def why(self) -> str:
        ...
class UpgradePlan:
    """
    What an upgrade would do.
    """
    @property
    def changes(self) -> list[UpgradeChange]:
        ...
    @property
    def current(self) -> bool:
        """
        There is nothing to do.
        """
    @property
    def format(self) -> str:
        """
        Of the source: jang-v1, jang or mlx.
        """
    @property
    def plan(self) -> Plan:
        ...
class ShardLayout:
    """
    Where a shard's tensors lie in its file.
    """
    @property
    def file_bytes(self) -> int:
        ...
    @property
    def header(self) -> bytes:
        ...
    @property
    def tensors(self) -> list[tuple[str, int, int]]:
        """
        (name, first byte, end), in order, without gaps.
        """
class PlannedCalibration:
    """
    What a gptq plan solves against.
    """
    @property
    def asked_sequences(self) -> int:
        """
        For as many the text was cut.
        """
    @property
    def sequences(self) -> int:
        ...
    @property
    def text(self) -> str:
        """
        Bare name, or "builtin".
        """
    @property
    def tokens(self) -> int:
        """
        Of each sequence.
        """
class PlanFile:
    """
    A planned conversion that can be made in parts.
    """
    def layout(self, shard: typing.SupportsInt | typing.SupportsIndex) -> ShardLayout:
        """
        Of the shard of that number, from 0.
        """
    @property
    def calibration(self) -> PlannedCalibration | None:
        """
        None for other methods than gptq.
        """
    @property
    def checksum(self) -> str:
        ...
    @property
    def files(self) -> list[tuple[str, int, str]]:
        """
        (name, bytes, SHA-256) of the source's files; the hash of the header for weights.
        """
    @property
    def method(self) -> str:
        """
        rtn, mse or gptq.
        """
    @property
    def plan(self) -> Plan:
        ...
    @property
    def shards(self) -> list[str]:
        """
        File names of the shards.
        """
    @property
    def source_name(self) -> str:
        ...
    @property
    def source_revision(self) -> str:
        ...
    @property
    def statistics_file(self) -> str | None:
        """
        Bare name of the statistics that weight columns, or None.
        """
    @property
    def text(self) -> str:
        ...
    @property
    def version(self) -> str:
        """
        Of the program that made it.
        """
class PlannedShards:
    """
    An opened source and the plan it is made by.
    """
    def __init__(self, plan: PlanFile, plan_name: str, source: str, *, column_weights: collections.abc.Mapping[str, typing.Annotated[numpy.typing.ArrayLike, numpy.float32]] | None = None, statistics_file: str = '', statistics_sha256: str = '', threads: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
        """
        Plans again: ArgumentError naming `plan_name` where the result is another one.
        """
    def make(self, directory: str, shard: typing.SupportsInt | typing.SupportsIndex, *, stretch: typing.SupportsInt | typing.SupportsIndex = 0, progress: typing.Any = None, notice: typing.Any = None) -> bool:
        """
        Makes a shard in the directory, or continues it; False if it was there and is whole.
        stretch: source bytes behind which a record is written, 0: those of about 20 seconds.
        """
    def record(self, finished: str, directory: str, shard: typing.SupportsInt | typing.SupportsIndex) -> bool:
        """
        Writes the record of a sound shard that lies in `finished` into the directory; False,
        and no record, for one with tensors on lattices.
        """
    def source_bytes(self, shard: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        Bytes of the source that a shard is made of.
        """
class PlannedLayers:
    """
    An opened source and the gptq plan that it is made by.
    """
    def __init__(self, plan: PlanFile, plan_name: str, source: str, *, calibration_ids: typing.Annotated[numpy.typing.ArrayLike, numpy.int32] | None, calibration_text: str, calibration_sha256: str, tokens_sha256: str, asked_sequences: typing.SupportsInt | typing.SupportsIndex, threads: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
        """
        Plans again: ArgumentError naming `plan_name` where the result is another one, or text,
        tokens or kernels are not the plan's.
        """
    def make(self, directory: str, begin: typing.SupportsInt | typing.SupportsIndex, end: typing.SupportsInt | typing.SupportsIndex, *, needs: str, stretch: typing.SupportsInt | typing.SupportsIndex = 0, progress: typing.Any = None, notice: typing.Any = None) -> bool:
        """
        Makes the tensors between two stops, or continues; False if they were there. IoError or
        FormatError with the sentence `needs` where the part before is to be made first.
        """
    def source_bytes(self, begin: typing.SupportsInt | typing.SupportsIndex, end: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        Bytes of the source between two stops.
        """
    @property
    def layers(self) -> int:
        """
        Of the model.
        """
    @property
    def stops(self) -> list[int]:
        """
        Numbers of layers behind which a part may end; the last is the end.
        """
class KvCache:
    """
    Keys, values and recurrent states of one sequence; made by Model.new_cache().
    """
    def keep(self) -> None:
        """
        Lets truncate() come back to the present length, until it goes back further; replaces the mark before. Costs a copy of the recurrent states, nothing without any.
        """
    def truncate(self, length: typing.SupportsInt | typing.SupportsIndex) -> int:
        """
        Forgets everything from position `length` on and returns the positions left: `length`, or 0 where recurrent layers cannot go back that far and all is forgotten. They can go back within the last 32 positions at least, and to the mark of keep().
        """
    @property
    def kv_type(self) -> str:
        """
        f32, f16, bf16, q8 or q4.
        """
    @property
    def length(self) -> int:
        """
        Positions held.
        """
class Model:
    """
    A model mapped from a JANG v2, stock MLX or plain Hugging Face directory.
    """
    def __init__(self, path: str, *, precision: str = 'fast', threads: typing.SupportsInt | typing.SupportsIndex = 0, kv_type: str | None = None, on_widen: typing.Any = None) -> None:
        """
        Opens, validates and maps `path`. `precision`: what quantized weights are multiplied with, "fast" (activations rounded to int8 per group) or "exact" (float32). `threads` 0: chosen from affinity and quota. `kv_type`: of the caches that new_cache() makes, "f32", "f16", "bf16", "q8" or "q4"; None: chosen by the model. `on_widen`: called with the bytes of memory that 8-bit floats are about to take as float32; not called without any.
        """
    def forward(self, tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], cache: KvCache, *, last_only: bool = False) -> numpy.typing.NDArray[numpy.float32]:
        """
        Appends int32 `tokens` [n] to `cache`; returns float32 logits [n, vocab], or [vocab] of the last token. Raises ArgumentError for a token outside the vocabulary.
        """
    def forward_batch(self, tokens: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.int32]], caches: collections.abc.Sequence[KvCache]) -> numpy.typing.NDArray[numpy.float32]:
        """
        Appends several sequences, a list of int32 arrays, each to its own cache in one pass over the weights; returns float32 logits [n, vocab] of the last token of each. Raises ArgumentError for a cache given twice; after an error all caches are as before.
        """
    def kv_bytes(self, positions: typing.SupportsInt | typing.SupportsIndex, kv_type: str | None = None) -> int:
        """
        Bytes of cache that `positions` tokens of context take.
        """
    def new_cache(self, kv_type: str | None = None) -> KvCache:
        """
        An empty cache for this model; `kv_type` None: the model's own.
        """
    def read_pass(self) -> float:
        """
        Reads every byte of the weight files once with all threads; returns the seconds taken.
        """
    @property
    def eos_ids(self) -> list[int]:
        """
        Of config.json and generation_config.json.
        """
    @property
    def expert_bytes_read(self) -> int:
        """
        Stored bytes of the experts that all calls so far have read, each once a pass however many tokens chose it.
        """
    @property
    def format(self) -> str:
        """
        jang, mlx or hf.
        """
    @property
    def hidden_size(self) -> int:
        ...
    @property
    def kv_type(self) -> str:
        """
        Of the caches that new_cache() makes.
        """
    @property
    def load_seconds(self) -> float:
        """
        Opening, validating and mapping.
        """
    @property
    def max_positions(self) -> int:
        """
        Context length of the config.
        """
    @property
    def model_type(self) -> str:
        ...
    @property
    def n_layers(self) -> int:
        ...
    @property
    def precision(self) -> str:
        ...
    @property
    def threads(self) -> int:
        ...
    @property
    def vocabulary(self) -> int:
        ...
    @property
    def weight_bytes(self) -> int:
        """
        Size of the weight files in bytes.
        """
    @property
    def weight_traffic(self) -> dict[str, typing.Any]:
        """
        Matrices that a token is multiplied with, as a dict of dicts: `layers` once per token, `head` once per row of logits, `experts` the part of `layers` that a token chooses, `wanted_only` the part that only tokens pass whose logits are wanted; each with `weights` (multiply-adds) and stored `bytes`.
        """
class Sampler:
    """
    From logits to the next token; seeded, the same on every platform.
    """
    def __init__(self, *, temperature: typing.SupportsFloat | typing.SupportsIndex = 0.0, top_k: typing.SupportsInt | typing.SupportsIndex = 0, top_p: typing.SupportsFloat | typing.SupportsIndex = 1.0, min_p: typing.SupportsFloat | typing.SupportsIndex = 0.0, repetition_penalty: typing.SupportsFloat | typing.SupportsIndex = 1.0, repetition_window: typing.SupportsInt | typing.SupportsIndex = 64, seed: typing.SupportsInt | typing.SupportsIndex = 0) -> None:
        """
        Raises ArgumentError for an option out of range.
        """
    def next(self, logits: numpy.typing.NDArray[numpy.float32], history: typing.Annotated[numpy.typing.ArrayLike, numpy.int32]) -> int:
        """
        The next token id. `logits` float32 [vocab] is changed in place; `history` int32 [n] is what the repetition penalty looks at.
        """
class LockStep:
    """
    A reference and other models on the same tokens, a piece at a time.
    """
    def __init__(self, reference: Model, models: collections.abc.Sequence[Model], *, vocabulary: typing.SupportsInt | typing.SupportsIndex = 0, logits_bytes: typing.SupportsInt | typing.SupportsIndex = 134217728) -> None:
        """
        `vocabulary`: how many entries of each row to compare, the first ones; 0: all, which must then be equally many. `logits_bytes` bounds the logits in memory. Raises ArgumentError for no models, the same twice, or vocabularies that differ.
        """
    def run(self, tokens: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], targets: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], first_scored: typing.SupportsInt | typing.SupportsIndex = 0, *, progress: typing.Any = None) -> dict[str, typing.Any]:
        """
        One window from empty caches.

        `tokens` int32 [n]; `targets` int32 [n], the token after each. Positions from `first_scored` on, p
        of them, are compared. Returns a dict of arrays: `nll_reference` float64 [p]; `kl`, `nll`,
        `squared_error` (of centred logits) float64 and `same_top` uint8, each [models, p]. Nats.
        `progress` is called with tokens done, tokens in all (of all models together) and "".
        Raises ArgumentError for a token outside the vocabulary, FormatError for logits that are not
        finite.
        """
    @property
    def piece_rows(self) -> int:
        """
        Rows of logits in memory at once, of each of two models.
        """
    @property
    def vocabulary(self) -> int:
        """
        Entries of a row compared.
        """
class OptionScorer:
    """
    Likelihoods of continuations of a context.
    """
    def __init__(self, model: Model) -> None:
        ...
    def score(self, context: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], continuations: collections.abc.Sequence[typing.Annotated[numpy.typing.ArrayLike, numpy.int32]]) -> list[float]:
        """
        The summed log-probability (nats) of each continuation, int32 arrays, after `context`, int32 [n]. What the context shares with that of the call before is not computed again. Raises ArgumentError for an empty one or a token outside the vocabulary.
        """
def collect_statistics(source: str, output: str, ids: typing.Annotated[numpy.typing.ArrayLike, numpy.int32], *, model_sha256: str, tokenizer_sha256: str, text_sha256: str, hessians: bool = False, threads: typing.SupportsInt | typing.SupportsIndex = 0, progress: typing.Any = None) -> None:
    """
    Runs the model over int32 [sequences, tokens] and writes a statistics file, which must not
    exist. progress(done, total, item) counts sequences through branches, on the calling
    thread. Raises FormatError, UnsupportedError, ArgumentError, IoError.
    """
def compared_files(source: str) -> list[str]:
    """
    Weight files whose payloads are compared before planning: those of the embedding and of a
    head that is stored although config.json ties it. Raises FormatError, UnsupportedError,
    IoError.
    """
def conversion_needs(source: str, plan: Plan, *, sequences: typing.SupportsInt | typing.SupportsIndex = 0, tokens: typing.SupportsInt | typing.SupportsIndex = 0, streams: typing.SupportsInt | typing.SupportsIndex = 2, casts: bool = False, statistics_bytes: typing.SupportsInt | typing.SupportsIndex = 0, threads: typing.SupportsInt | typing.SupportsIndex = 0) -> ConversionNeeds:
    """
    Memory and scratch files of a conversion by `plan`, an upper bound. sequences 0: without
    calibration, where the source is not opened. Raises FormatError, UnsupportedError, IoError.
    """
def convert_directory(source: str, partial: str, *, profile: str = 'JANG_4K', bits: typing.SupportsFloat | typing.SupportsIndex | None = None, size: typing.SupportsInt | typing.SupportsIndex | None = None, dtype: str | None = None, group_size: typing.SupportsInt | typing.SupportsIndex | None = None, router_bits: typing.SupportsInt | typing.SupportsIndex | None = None, expert_floor: typing.SupportsInt | typing.SupportsIndex | None = None, rules: collections.abc.Sequence[str] = [], shard_size: typing.SupportsInt | typing.SupportsIndex | None = None, method: str = 'mse', threads: typing.SupportsInt | typing.SupportsIndex = 0, source_name: str = '', source_revision: str = '', think_in_template: bool = False, generator_version: str, calibration_ids: typing.Annotated[numpy.typing.ArrayLike, numpy.int32] | None = None, calibration_text: str = '', calibration_sha256: str = '', calibration_streams: typing.SupportsInt | typing.SupportsIndex = 2, losses: collections.abc.Mapping[str, ModuleLoss] = {}, column_weights: collections.abc.Mapping[str, typing.Annotated[numpy.typing.ArrayLike, numpy.float32]] | None = None, statistics_file: str = '', statistics_sha256: str = '', resume_key: str | None = None, resume_stretch: typing.SupportsInt | typing.SupportsIndex = 0, feed: typing.Any = None, progress: typing.Any = None, notice: typing.Any = None) -> ConvertReport:
    """
    Writes shards, index, config.json and jang_config.json into the existing directory
    `partial`. calibration_ids: int32 [sequences, tokens], for method gptq;
    calibration_streams 2 also runs the full-precision model beside the quantized one.
    column_weights: float32 [columns] or [experts, columns] by module path, for method mse;
    losses: those of measure_losses, where bits or size is given.
    resume_key: what the bytes depend on; what an interrupted conversion with the same key left
    in `partial` is then continued, and the state for that stays there. resume_stretch: source
    bytes behind which methods other than gptq write it, 0: those of about 20 seconds.
    feed: an object that brings the weight files of `source`, which have sizes and headers:
    schedule([(files, files done with behind)]), need(files), done(files), and, on any thread,
    sample(file, begin, bytes); not for method gptq.
    progress(done, total, item) counts bytes of source weights, notice(line) is told how the
    work goes on, both on the calling thread.
    threads 0: as many as the process may use. Raises FormatError, UnsupportedError,
    ArgumentError, IoError.
    """
def dequantize(codes: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], scales: numpy.ndarray, biases: numpy.ndarray, *, bits: typing.SupportsInt | typing.SupportsIndex, group_size: typing.SupportsInt | typing.SupportsIndex, dtype: str | None = None, threads: typing.SupportsInt | typing.SupportsIndex = 0) -> numpy.typing.NDArray[numpy.float32]:
    """
    scale * code + bias in float32: [..., in] from codes uint32 [..., in*bits/32].

    scales, biases: [..., in/group_size] in float32, float16, or uint16 with dtype="BF16".
    """
def feed_schedule(source: str, plan: Plan) -> list[tuple[list[str], list[str]]]:
    """
    What a conversion by `plan` will ask its feed for: [(files, files done with behind)].
    Raises FormatError, IoError.
    """
def finish_planned(directory: str, plan: PlanFile, config: bytes, think_in_template: bool) -> list[str]:
    """
    Writes index, config.json and jang_config.json beside the shards. config: the source's.
    Returns warnings of the solving.
    """
def inspect_directory(path: str) -> Inspection:
    """
    Reads headers and JSON of a JANG, MLX or plain directory. Raises FormatError,
    UnsupportedError, IoError.
    """
def k_profile_targets() -> list[int]:
    """
    Mean bits that the K profiles hold.
    """
def layer_point_name(position: typing.SupportsInt | typing.SupportsIndex, layers: typing.SupportsInt | typing.SupportsIndex) -> str:
    """
    File name of the states that a part leaves behind so many layers.
    """
def make_plan_file(source: str, *, profile: str = 'JANG_4K', bits: typing.SupportsFloat | typing.SupportsIndex | None = None, size: typing.SupportsInt | typing.SupportsIndex | None = None, dtype: str | None = None, group_size: typing.SupportsInt | typing.SupportsIndex | None = None, router_bits: typing.SupportsInt | typing.SupportsIndex | None = None, expert_floor: typing.SupportsInt | typing.SupportsIndex | None = None, rules: collections.abc.Sequence[str] = [], shard_size: typing.SupportsInt | typing.SupportsIndex | None = None, losses: collections.abc.Mapping[str, ModuleLoss] = {}, method: str = 'mse', read_weights: bool = False, column_weights: collections.abc.Mapping[str, typing.Annotated[numpy.typing.ArrayLike, numpy.float32]] | None = None, statistics_file: str = '', statistics_sha256: str = '', files: collections.abc.Sequence[tuple[str, typing.SupportsInt | typing.SupportsIndex, str]], source_name: str = '', source_revision: str = '', version: str, threads: typing.SupportsInt | typing.SupportsIndex = 0, calibration_ids: typing.Annotated[numpy.typing.ArrayLike, numpy.int32] | None = None, calibration_text: str = '', calibration_sha256: str = '', tokens_sha256: str = '', asked_sequences: typing.SupportsInt | typing.SupportsIndex = 0, scratch: str = '', progress: typing.Any = None) -> PlanFile:
    """
    Plans a conversion in parts from headers; with read_weights also the lattices that tensors
    lie on, and with gptq these and what widths cost on calibration_ids [sequences, tokens];
    scratch: a directory for files without a name. files: (name, bytes, SHA-256) of the source's. Raises FormatError, ArgumentError,
    UnsupportedError, IoError.
    """
def measure_losses(source: str, column_weights: collections.abc.Mapping[str, typing.Annotated[numpy.typing.ArrayLike, numpy.float32]], *, file: str = 'statistics', dtype: str | None = None, group_size: typing.SupportsInt | typing.SupportsIndex | None = None, threads: typing.SupportsInt | typing.SupportsIndex = 0, progress: typing.Any = None) -> dict[str, ModuleLoss]:
    """
    By module path the weighted error of a sample of its rows in every format it may get, for
    `losses` of plan_directory and convert_directory. column_weights: float32 [columns] or
    [experts, columns] by module path. Raises FormatError, UnsupportedError, ArgumentError,
    IoError.
    """
def merge_statistics(files: collections.abc.Sequence[str], output: str) -> None:
    """
    Adds the sums of statistics files of one model into a new one. Raises ArgumentError where
    model, tokenizer or modules differ, FormatError, UnsupportedError, IoError.
    """
def normalize_json(text: bytes, non_finite: bool = False) -> str:
    """
    Parses strict JSON and returns its canonical text: sorted keys, two spaces, final newline. non_finite: take Infinity, -Infinity and NaN, as config.json may hold. Raises FormatError.
    """
def pack(codes: typing.Annotated[numpy.typing.ArrayLike, numpy.uint8], *, bits: typing.SupportsInt | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.uint32]:
    """
    Codes uint8 [..., n] to the bit stream, uint32 [..., n*bits/32]; n a multiple of 32.
    """
def parse_header(data: bytes, file_bytes: typing.SupportsInt | typing.SupportsIndex, file: str = '<memory>') -> list[TensorInfo]:
    """
    Validates a safetensors header. data: the file's first 8 + N bytes or more; file_bytes: the size of the whole file. Returns a list of TensorInfo in payload order; raises FormatError or UnsupportedError.
    """
def parse_plan_file(text: bytes, name: str) -> PlanFile:
    """
    `name` is used in messages. Raises FormatError.
    """
def parse_profile(text: str) -> str:
    """
    The canonical name of a profile in any spelling. Raises ArgumentError with the nearest
    names.
    """
def plan_directory(path: str, *, profile: str = 'JANG_4K', bits: typing.SupportsFloat | typing.SupportsIndex | None = None, size: typing.SupportsInt | typing.SupportsIndex | None = None, dtype: str | None = None, group_size: typing.SupportsInt | typing.SupportsIndex | None = None, router_bits: typing.SupportsInt | typing.SupportsIndex | None = None, expert_floor: typing.SupportsInt | typing.SupportsIndex | None = None, rules: collections.abc.Sequence[str] = [], shard_size: typing.SupportsInt | typing.SupportsIndex | None = None, losses: collections.abc.Mapping[str, ModuleLoss] = {}) -> Plan:
    """
    Plans from headers alone: shards may lack their payloads, and config.json with or without
    an index is enough where the model type is described. bits (per weight of the files) or
    size (bytes of the files) take the place of the profile; for them losses counts
    (measure_losses), else the prior. Raises FormatError, UnsupportedError, ArgumentError, IoError.
    """
def plan_upgrade(source: str) -> UpgradePlan:
    """
    What upgrading a quantized directory would do. Raises FormatError, UnsupportedError, IoError.
    """
def profiles() -> list[Profile]:
    """
    The profiles with fixed columns, in ascending order.
    """
def quantize(weights: numpy.ndarray, *, bits: typing.SupportsInt | typing.SupportsIndex, group_size: typing.SupportsInt | typing.SupportsIndex, method: str = 'rtn', dtype: str | None = None, importance: typing.Annotated[numpy.typing.ArrayLike, numpy.float32] | None = None, threads: typing.SupportsInt | typing.SupportsIndex = 0) -> tuple[typing.Any, ...]:
    """
    Quantizes rows: weights [..., in] -> (codes, scales, biases).

    weights: float32, float16, or uint16 holding bfloat16 with dtype="BF16"; finite.
    bits: 2, 3, 4, 5, 6 or 8. group_size: 32, 64 or 128, a divisor of in.
    method: "rtn" (MLX's CPU rule, bit for bit) or "mse" (search of scale and bias).
    importance: float32 [in], positive weights of the squared errors of each column, for "mse".
    threads: 0 for all usable ones; results do not depend on it.

    codes: uint32 [..., in*bits/32]. scales, biases: [..., in/group_size], represented like weights.
    Raises FormatError for a NaN or infinity and for scales or biases that the type cannot hold, naming
    row and column; ArgumentError for the other arguments.
    """
def resume_bytes(source: str, tokens: typing.SupportsInt | typing.SupportsIndex, streams: typing.SupportsInt | typing.SupportsIndex = 2) -> int:
    """
    Bytes that a gptq conversion takes at most beside its output, to be able to continue after
    an interruption. Raises FormatError, UnsupportedError, IoError.
    """
def runtime_info() -> dict[str, typing.Any]:
    """
    Kernel levels and threads of this process.

    Returns a dict: `version` (str), `levels` ({name: {"compiled", "supported", "active"}}, one active),
    `threads` (int, the default number) and `threads_reason` (str, where that number comes from).

    Raises ArgumentError if JANG_ISA names a level that is unknown, not in this build or not supported
    here, or if JANG_NUM_THREADS is not a usable number.
    """
def shard_checksums(directory: str, plan: PlanFile, shard: typing.SupportsInt | typing.SupportsIndex) -> dict[str, int] | None:
    """
    CRC-32 by tensor as a shard's record has them; None without a record of the whole shard.
    Raises FormatError for a damaged record, ArgumentError for one of another plan.
    """
def unpack(words: typing.Annotated[numpy.typing.ArrayLike, numpy.uint32], *, bits: typing.SupportsInt | typing.SupportsIndex) -> numpy.typing.NDArray[numpy.uint8]:
    """
    The bit stream uint32 [..., n*bits/32] to codes uint8 [..., n].
    """
def upgrade_directory(source: str, partial: str, *, threads: typing.SupportsInt | typing.SupportsIndex = 0, source_name: str = '', think_in_template: bool = False, generator_version: str, progress: typing.Any = None) -> ConvertReport:
    """
    Writes shards, index, config.json and jang_config.json of an upgraded directory into the
    existing directory `partial`. progress(done, total, item) counts bytes written, on the
    calling thread. Raises FormatError, UnsupportedError, IoError.
    """
def verify_directory(path: str, *, against: str | None = None, threads: typing.SupportsInt | typing.SupportsIndex = 0, progress: typing.Any = None) -> Verification:
    """
    Checks everything but SHA256SUMS. progress(done, total, item) counts bytes read, on the
    calling thread. Raises UnsupportedError for a format that is refused by name, IoError.
    """
__version__: str

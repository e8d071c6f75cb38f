"""How a GPTQ directory says that it was quantized, and what of it is read here.

AutoGPTQ wrote quantize_config.json, transformers a ``quantization_config`` in config.json, and
GPTQModel writes both; where both are there they must agree.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jang_tools.foreign.faults import malformed, shown, unsupported
from jang_tools.json_file import read_json_object

SETTINGS_FILE = "quantize_config.json"
BITS = (2, 3, 4, 8)
_USED = ("bits", "group_size", "desc_act", "sym", "checkpoint_format", "quant_method")


@dataclass(frozen=True)
class GptqSettings:
    """``group_size`` -1: one group a column of the stored matrix, that is, one a row of weights.

    ``zero_offset`` is what the stored zero points lack: 1 in the original format, 0 in gptq_v2.
    ``mixed``: some modules have other bits and groups, which their shapes tell.
    """

    bits: int
    group_size: int
    desc_act: bool
    zero_offset: int
    mixed: bool


def is_gptq(directory: Path) -> bool:
    """Whether a directory claims to hold GPTQ weights; raises for JSON that cannot be read."""
    return _method(*_stated(directory)) == "gptq"


def read_settings(directory: Path) -> GptqSettings:
    """Raises FormatError for settings without sense, UnsupportedError for layouts not read here."""
    values, file = _stated(directory)
    _check_agreement(*_both(directory))

    def integer(key: str, default: int | None = None) -> int:
        value = values.get(key, default)
        if not isinstance(value, int) or isinstance(value, bool):
            raise malformed(
                file, f"{key}: expected an integer, found {_short(value)}", code="config_value"
            )
        return value

    def flag(key: str) -> bool:
        value = values.get(key, False)
        if value is None:
            return False
        if not isinstance(value, bool):
            raise malformed(
                file, f"{key}: expected true or false, found {_short(value)}", code="config_value"
            )
        return value

    method = _method(values, file)
    if method != "gptq":
        raise unsupported(file, f"quant_method: expected gptq, found {shown(method)}")
    bits, group_size = integer("bits"), integer("group_size", -1)
    if bits not in BITS:
        raise unsupported(
            file, f"bits: {_short(bits)} are not read; read are {', '.join(map(str, BITS))}"
        )
    if group_size != -1 and group_size < 1:
        raise malformed(
            file,
            f"group_size: expected -1 or a positive number, found {_short(group_size)}",
            code="config_value",
        )
    layout = values.get("checkpoint_format") or values.get("format") or "gptq"
    if flag("is_marlin_format"):
        layout = "marlin"
    if layout not in ("gptq", "gptq_v2"):
        raise unsupported(
            file, f"checkpoint_format: {_short(layout)} is not read; read are gptq, gptq_v2"
        )
    if values.get("pack_dtype", "int32") not in ("int32", "torch.int32"):
        raise unsupported(
            file, f"pack_dtype: expected int32, found {_short(values.get('pack_dtype'))}"
        )
    return GptqSettings(
        bits=bits,
        group_size=group_size,
        desc_act=flag("desc_act"),
        zero_offset=0 if layout == "gptq_v2" else 1,
        mixed=bool(values.get("dynamic")),
    )


def _stated(directory: Path) -> tuple[dict[str, Any], str]:
    """The settings, and the file that an error about them is to name."""
    inner, outer = _both(directory)
    if not inner:
        return outer, SETTINGS_FILE
    return {**outer, **inner}, "config.json"


def _both(directory: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    inner = read_json_object(directory / "config.json").get("quantization_config")
    outer = read_json_object(directory / SETTINGS_FILE)
    found = [stated if isinstance(stated, dict) else {} for stated in (inner, outer)]
    given = [{key: value for key, value in one.items() if value is not None} for one in found]
    return given[0], given[1]


def _check_agreement(inner: dict[str, Any], outer: dict[str, Any]) -> None:
    for key in _USED:
        if key in inner and key in outer and inner[key] != outer[key]:
            raise malformed(
                SETTINGS_FILE,
                f"{key}: expected {_short(inner[key])}, as config.json has it, found"
                f" {_short(outer[key])}",
                code="config_value",
            )


def _method(values: dict[str, Any], file: str) -> str:
    # quantize_config.json did not name the method at first, but always had its bits. In config.json
    # there is always a name: MLX has a quantization_config without one.
    silent = "gptq" if file == SETTINGS_FILE and "bits" in values else ""
    method = values.get("quant_method", silent)
    return method.lower() if isinstance(method, str) else ""


def _short(value: object) -> str:
    return shown(f"{value!r:.60}")

"""The data types that a worker computes in, by the flags of its CPU."""

from pathlib import Path

import pytest
import torch

from stitchwork.errors import JobFailedError
from stitchwork.models.cpu_features import cpu_flags, describe_cpu
from stitchwork.models.precision import check_dtype, cpu_dtypes, preferred_dtype, torch_dtype
from stitchwork.resources import Dtype, TextEncoder

CPU = torch.device("cpu")
COMMON = "fpu vme sse sse2 ssse3 fma sse4_1 sse4_2 avx f16c avx2 avx512f avx512bw avx512_vnni"
SAPPHIRE_RAPIDS = f"{COMMON} avx512_bf16 avx512_fp16 amx_bf16 amx_tile amx_int8"
GRANITE_RAPIDS = f"{SAPPHIRE_RAPIDS} amx_fp16"
ZEN_5 = f"{COMMON} avx512_bf16 avx512_vp2intersect"
ICE_LAKE = COMMON
HASWELL = "fpu vme sse sse2 ssse3 fma sse4_1 sse4_2 avx f16c avx2"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        pytest.param(SAPPHIRE_RAPIDS, ("float32", "bfloat16", "float16"), id="sapphire-rapids"),
        pytest.param(GRANITE_RAPIDS, ("float32", "bfloat16", "float16"), id="granite-rapids"),
        pytest.param("amx_bf16", ("float32", "bfloat16"), id="amx-alone"),
        pytest.param(ZEN_5, ("float32", "bfloat16"), id="zen-5"),
        pytest.param(ICE_LAKE, ("float32",), id="ice-lake"),
        pytest.param(HASWELL, ("float32",), id="haswell"),
        pytest.param("", ("float32",), id="unknown"),
    ],
)
def test_cpu_computes_in_the_data_types_that_it_has_instructions_for(
    flags: str, expected: tuple[Dtype, ...]
) -> None:
    assert cpu_dtypes(frozenset(flags.split())) == expected


def cpu_info(tmp_path: Path, *processors: str, model: str = "AMD EPYC") -> Path:
    file = tmp_path / "cpuinfo"
    blocks = (
        f"processor\t: {i}\nmodel name\t: {model}\nflags\t\t: {flags}\nbugs\t\t: spectre_v1\n"
        for i, flags in enumerate(processors)
    )
    file.write_text("\n".join(blocks))
    return file


def test_flags_are_those_that_all_processors_have(tmp_path: Path) -> None:
    info = cpu_info(tmp_path, ZEN_5, HASWELL)
    assert cpu_flags(info) == set(HASWELL.split())
    assert cpu_flags(cpu_info(tmp_path, ZEN_5, ZEN_5)) == set(ZEN_5.split())
    assert cpu_flags(tmp_path / "absent") == frozenset()


def test_cpus_with_other_flags_or_names_are_of_another_kind(tmp_path: Path) -> None:
    kind = describe_cpu(cpu_info(tmp_path, ZEN_5))
    assert describe_cpu(cpu_info(tmp_path, ZEN_5, ZEN_5)) == kind
    assert describe_cpu(cpu_info(tmp_path, HASWELL)) != kind
    assert describe_cpu(cpu_info(tmp_path, ZEN_5, model="another")) != kind


@pytest.mark.parametrize(
    ("device", "flags", "compiles", "expected"),
    [
        ("cpu", ZEN_5, True, "bfloat16"),
        ("cpu", ZEN_5, False, "float32"),
        ("cpu", ICE_LAKE, True, "float32"),
        ("cuda", ZEN_5, False, "bfloat16"),
        ("cuda", ICE_LAKE, False, "float32"),
        ("mps", HASWELL, False, "float32"),
    ],
)
def test_auto_is_bfloat16_where_it_is_faster(
    device: str, flags: str, compiles: bool, expected: str
) -> None:
    # A GPU has the data types of its own; here they are those of a CPU.
    dtypes = cpu_dtypes(frozenset(flags.split()))
    assert preferred_dtype(torch.device(device), dtypes, compiles=compiles) == expected


def test_encoder_in_a_data_type_that_the_device_lacks_is_refused_by_name() -> None:
    spec = TextEncoder(model="words", dtype="float16")
    check_dtype(spec, CPU, ("float32", "float16"))
    expected = "computes in float32, bfloat16 on cpu, words is to be computed in float16"
    with pytest.raises(JobFailedError, match=expected):
        check_dtype(spec, CPU, ("float32", "bfloat16"))


def test_data_type_of_a_model_is_that_of_torch_once_it_is_chosen() -> None:
    assert torch_dtype(TextEncoder(model="words")) == torch.float32
    assert torch_dtype(TextEncoder(model="words", dtype="bfloat16")) == torch.bfloat16
    with pytest.raises(JobFailedError, match="expected float32, bfloat16, float16 for words"):
        torch_dtype(TextEncoder(model="words", dtype="auto"))

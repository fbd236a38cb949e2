"""
The machine code of the kernels, which the tests of their values do not see where Triton interprets them.

ptxas 12.8 once made code that read an address before anything had written it: on an H100 half of a convolution was wrong.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton", reason="Triton compiles the kernels")
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
# Of a process of its own, since in this one Triton may interpret.
COMPILE = """
import json, sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from sb3_bcvlr.common import kernels, triton_convolution

for number, (name, n_from, n_to, flags) in enumerate(json.loads(sys.argv[1])):
    kernel = getattr(triton_convolution, name)
    settings = kernels._settings(n_from, n_to, flags.get("of_weights", False))
    n_input, n_output = (n_from, n_to) if name == "convolve" else (n_to, n_from)
    constants = {
        "height": 64, "width": 64, "n_input": n_input, "n_input_padded": kernels._padded(n_input), "n_output": n_output,
        "n_output_padded": kernels._padded(n_output), "n_tile": settings["n_pairs"], "n_stages": settings["n_stages"], **flags,
    }
    types = {"n_pairs": "i32", "bias": "*fp32", "weight_parts": "*fp32", "bias_parts": "*fp32"}
    signature = {n: "constexpr" if n in constants else types.get(n, "*bf16") for n in kernel.arg_names}
    aligned = {(i,): [["tt.divisibility", 16]] for i, n in enumerate(kernel.arg_names) if n not in constants}
    source = ASTSource(kernel, signature, constants, aligned)
    compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": settings["num_warps"]})
    open(f"{sys.argv[2]}/{number}", "wb").write(compiled.asm["cubin"])
"""
FIRST = dict(has_residual=False, rectifies_input=True, rectifies_output=True)  # of a residual block
SECOND = dict(has_residual=True, rectifies_input=False, rectifies_output=False)
OF_SECOND = dict(has_residual=False, rectifies_input=False, is_rectified=True, of_input=True, of_weights=True)
OF_FIRST = dict(has_residual=True, rectifies_input=True, is_rectified=False, of_input=True, of_weights=True)
OF_PICTURES = dict(has_residual=False, rectifies_input=False, is_rectified=False, of_input=False, of_weights=True)
KERNELS = [
    ("convolve", 16, 16, FIRST),
    ("convolve", 16, 16, SECOND),
    ("convolve", 24, 12, FIRST),
    ("convolve", 4, 16, SECOND),
    ("convolve_backward", 16, 16, OF_SECOND),
    ("convolve_backward", 16, 16, OF_FIRST),
    ("convolve_backward", 24, 12, OF_SECOND),
    ("convolve_backward", 12, 24, OF_FIRST),
    ("convolve_backward", 12, 24, dict(OF_FIRST, of_weights=False)),
    ("convolve_backward", 4, 16, OF_SECOND),
    ("convolve_backward", 16, 4, OF_PICTURES),
]


def unwritten(assembly: str) -> list[str]:
    """The instructions that read a uniform register, such as addresses are made of, before any has written it."""
    written: set[int] = set()
    wrong = []
    for instruction in re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z].*?);", assembly):
        name, _, rest = instruction.partition(" ")
        operands = [operand.strip() for operand in rest.split(",")]
        is_wide = name.startswith("U") and (".64" in name or ".WIDE" in name)
        output: list[int] = []
        if re.match("U|S2UR|R2UR", name):  # writes the first of them that is no predicate
            place = next((i for i, operand in enumerate(operands) if not re.match("U?P", operand)), 0)
            output = [int(number) for number in re.findall(r"^UR(\d+)$", operands.pop(place))]
        for operand in operands:
            read = range(4 if operand.startswith("gdesc") else 2 if is_wide or "desc" in operand else 1)
            # Of the two addresses of a product on tensor cores the first is not used where a register holds the values.
            read = read[2:] if operand.startswith("gdesc") and re.match(r"R\d", operands[1]) else read
            numbers = [int(number) + i for number in re.findall(r"\bUR(\d+)", operand) for i in read]
            wrong += [instruction] if not written.issuperset(numbers) else []
        written.update(number + i for number in output for i in range(1 + is_wide))
    return wrong


def test_an_address_that_nothing_has_written_is_found():
    lines = ["ULDC.64 UR4, c[0x0][0x210]", "UIADD3 UR6, UP0, UR4, 0x40, URZ", "UIADD3 UR8, UP0, UR9, 0x40, URZ"]
    assembly = "".join(f"/*{16 * i:04x}*/ {line} ;\n" for i, line in enumerate(lines))
    assert [line.split()[1] for line in unwritten(assembly)] == ["UR8,"]


@pytest.fixture(scope="module")
def assemblies(tmp_path_factory):
    if not (TOOLS / "cuobjdump").exists():
        pytest.skip("this Triton comes without NVIDIA's tools")
    folder = tmp_path_factory.mktemp("kernels")
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    subprocess.run([sys.executable, "-c", COMPILE, json.dumps(KERNELS), folder], env=environment, check=True)
    dump = [TOOLS / "cuobjdump", "-sass"]
    return [subprocess.check_output([*dump, folder / str(number)], text=True) for number in range(len(KERNELS))]


@pytest.mark.parametrize("number", range(len(KERNELS)), ids=["-".join(map(str, kernel[:3])) for kernel in KERNELS])
def test_no_kernel_reads_an_address_that_nothing_has_written(assemblies, number):
    # It was read, and multiplies on tensor cores: the pictures' 4 channels are too few for those of whole groups of warps.
    assert ("HMMA" if KERNELS[number][3] is OF_PICTURES else "HGMMA") in assemblies[number]
    assert unwritten(assemblies[number]) == []

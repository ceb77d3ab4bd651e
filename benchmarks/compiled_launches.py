"""Kernels that a compiled training step launches on CUDA, read from inductor's schedule without a GPU.

    python benchmarks/compiled_launches.py [--small] [--by parts|network] [--norm formula|kernels] [--names 20]

The base network of the paper on fake tensors, under autocast, goes through AOTAutograd and inductor as in
`torch.compile`, down to the schedule: one node is one kernel. Its parts are compiled, as in training, each kind once,
and what runs between them is counted as step_cost.py does; or all of it is one graph. The tensors are on the CPU;
inductor is told that this is an H100, so that it splits sums and fuses for Triton as it would there. This reaches into
inductor of torch 2.14. The optimiser is not compiled; step_cost.py counts it.
"""

import argparse
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any, Literal
from unittest.mock import patch

import step_cost
import torch
from functorch.compile import aot_function, make_boxed_func, min_cut_rematerialization_partition
from torch import Tensor, nn
from torch._guards import detect_fake_mode
from torch._inductor import config, scheduler, utils
from torch._inductor.codegen.triton import TritonScheduling
from torch._inductor.debug import DebugContext
from torch._inductor.decomposition import select_decomp_table
from torch._inductor.fx_passes.post_grad import post_grad_passes
from torch._inductor.graph import GraphLowering
from torch._inductor.runtime.hints import DeviceProperties
from torch._inductor.virtualized import V
from torch._subclasses import FakeTensor, FakeTensorMode
from torch.func import functional_call
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils._python_dispatch import _get_current_dispatch_mode, _pop_mode_temporarily
from torch.utils._pytree import register_dataclass, tree_flatten, tree_unflatten

from ediffi.registry.denoisers import attention, cast, norm
from ediffi.registry.denoisers.layers import PARTS
from ediffi.registry.types import Conditioning, Embedding

H100 = DeviceProperties(
    type="cuda",
    index=0,
    multi_processor_count=132,
    cc=90,
    major=9,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    warp_size=32,
)
SMALL = {"channels": 64, "context_width": 64, "head_channels": 32, "channel_mults": (1, 2), "num_res_blocks": 1}
SMALL |= {"attention_levels": (1,)}
"""7 blocks, the network whose eager launches the tests hold."""


def kernels(*arguments: Any) -> Tensor:
    """The norm of a network that trains on CUDA."""
    from ediffi.registry.denoisers.group_norm_kernels import group_norm

    return group_norm(*arguments)[0]


@contextmanager
def uncounted() -> Iterator[None]:
    """Within it, a count of what runs between the graphs pauses."""
    counts = isinstance(_get_current_dispatch_mode(), step_cost.Cost)
    with _pop_mode_temporarily() if counts else nullcontext():
        yield


class Kernels:
    """Counts the kernels of each graph that runs, by what they compute; stands where inductor's compiler does."""

    def __init__(self) -> None:
        self.own: Counter[str] = Counter()
        self.libraries: Counter[str] = Counter()
        self.between: Counter[str] = Counter()
        self.regions: dict[Any, Callable[..., Tensor]] = {}
        self.graphs, self.seconds = 0, 0.0

    def compiled(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function as AOTAutograd and inductor compile it, whose kernels count at each call."""
        return aot_function(
            function,
            partial(self._compile, is_backward=False),
            partial(self._compile, is_backward=True),
            partition_fn=min_cut_rematerialization_partition,
            decompositions=select_decomp_table(),
        )

    def part(self, module: nn.Module, *inputs: Any) -> Tensor:
        """The output of a part; parts of equal settings and shapes are compiled once."""
        weights, (tensors, form) = dict(module.named_parameters()), tree_flatten(inputs)
        given = [leaf for leaf in tensors if isinstance(leaf, Tensor)]
        shapes = tuple((leaf.shape, leaf.dtype) for leaf in (*weights.values(), *given))
        kind = repr(module), getattr(module, "how", None), form, shapes
        if kind not in self.regions:

            def run(weights: list[Tensor], given: list[Tensor]) -> Tensor:
                left = iter(given)
                leaves = [next(left) if isinstance(leaf, Tensor) else leaf for leaf in tensors]
                with _reparametrize_module(module, dict(zip(names, weights, strict=True))):
                    output: Tensor = module._call_impl(*tree_unflatten(leaves, form))
                return output

            names = list(weights)
            self.regions[kind] = self.compiled(run)
        with uncounted():
            return self.regions[kind](list(weights.values()), given)

    def _compile(self, graph: torch.fx.GraphModule, inputs: list[Tensor], is_backward: bool) -> Any:
        begun, kernels = time.process_time(), Kernels()
        with uncounted(), V.set_fake_mode(detect_fake_mode(inputs)):
            post_grad_passes(graph, is_inference=False)
            lowered = GraphLowering(graph, example_inputs=inputs, is_backward=is_backward)
            with ExitStack() as stack:
                stack.enter_context(V.set_graph_handler(lowered))
                stack.enter_context(V.set_extern_kernel_nodes([]))
                stack.enter_context(V.set_debug_handler(DebugContext()))
                # of attention's inputs inductor asks for other strides where they are not on CUDA
                with patch.object(FakeTensor, "is_cuda", True, create=True):
                    lowered.run(*inputs)
                lowered.init_wrapper_code()
                lowered._update_scheduler()
                for node in lowered.scheduler.nodes:
                    kernels._count(node)
        self.graphs, self.seconds = self.graphs + 1, self.seconds + time.process_time() - begun

        def run(*inputs: Tensor) -> Any:
            self.own += kernels.own
            self.libraries += kernels.libraries
            with uncounted():
                return graph(*inputs)

        return make_boxed_func(run)

    def _count(self, node: Any) -> None:
        kind, operation = type(node).__name__, node.node
        if kind.startswith("Nop") or type(operation).__name__ == "MultiOutput":
            return
        if "Extern" in kind:
            name = str(getattr(operation, "op_overload", None) or operation.python_kernel_name).split(".")[1]
            self.libraries[name] += library_launches(name)
            return
        parts = [part for part in node.get_nodes() if part.node is not None]
        names = {str(origin.target).split(".")[-2:][0] for part in parts for origin in part.node.origins}
        reduces = any(part.is_reduction() for part in parts)
        self.own[("sum: " if reduces else "") + " + ".join(sorted(names))[:100]] += 1


def library_launches(name: str) -> int:
    """Kernels that a call of a library launches, as `step_cost.launches` counts them."""
    if name == "convolution_backward":  # of inputs and of weights; inductor sums for the bias itself
        return 2
    return step_cost.LAUNCHES.get(name, 1)


def as_cast_on_cuda(layers: Mapping[str, nn.Module], cast_layers: Any = cast._cast_layers) -> dict[str, Tensor]:
    """The cast of weights that AOTAutograd has replaced by plain tensors."""
    with patch.object(cast.nn, "Parameter", Tensor):
        return cast_layers(layers)


def count(arguments: dict[str, Any], of_the_norm: str, by: Literal["parts", "network"]) -> Kernels:
    """The kernels of a forward and a backward pass of `unet_base64(**arguments)`."""
    counted = Kernels()
    batch, size, _ = step_cost.PAPER["unet_base64"]
    utils.GPU_TYPES.append("cpu")
    patches = [
        patch.object(DeviceProperties, "create", staticmethod(lambda device: H100)),
        patch.object(scheduler.Scheduler, "create_backend", lambda self, device: TritonScheduling(self)),
        patch.object(config, "cpu_backend", "triton"),
        patch.object(cast, "GROUPED", {"cpu"}),
        patch.object(norm, "apart", norm.composed if of_the_norm == "formula" else kernels),
        patch.object(attention, "attend", step_cost.attend_on_cuda),
        patch.object(attention, "MATMULS", {"cpu"}),
        patch.object(cast, "_cast_layers", as_cast_on_cuda),
    ]
    with ExitStack() as stack:
        for each in patches:
            stack.enter_context(each)
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        network = step_cost.build("unet_base64", **arguments).network
        images, sigma, cond = step_cost.inputs(batch, size, None, all_tokens=False)
        names, weights = zip(*network.named_parameters(), strict=True)

        def call(weights: list[Tensor], images: Tensor, c_noise: Tensor, *tensors: Tensor) -> Tensor:
            given = iter(tensors)
            sources = {
                name: Embedding(next(given), next(given), None if source.pooled is None else next(given))
                for name, source in cond.sources.items()
            }
            with torch.autocast("cpu", torch.bfloat16):
                return functional_call(
                    network, dict(zip(names, weights, strict=True)), (images, c_noise, Conditioning(sources))
                )

        if by == "parts":
            register_dataclass(attention.Context)
            for module in network.modules():
                if isinstance(module, PARTS):
                    module._compiled_call_impl = partial(counted.part, module)
        given = [part for source in cond.sources.values() for part in (source.tokens, source.mask, source.pooled)]
        tensors = [part for part in given if part is not None]
        with (cost := step_cost.Cost(batch, images.numel())):
            if by == "parts":
                out = call(list(weights), images, sigma, *tensors)
            else:
                with uncounted():
                    out = counted.compiled(call)(list(weights), images, sigma, *tensors)
            out.backward(torch.empty_like(out))
    counted.between = cost.launches
    return counted


def main() -> None:
    """Count and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", action="store_true", help="a network of 7 blocks")
    parser.add_argument("--by", choices=("parts", "network"), default="parts", help="what is one graph")
    parser.add_argument("--norm", choices=("formula", "kernels"), default="kernels", help="of a network in training")
    parser.add_argument("--names", type=int, default=20, help="kernels to list")
    args = parser.parse_args()
    counted = count(SMALL if args.small else {}, args.norm, args.by)
    own, libraries, between = counted.own.total(), counted.libraries.total(), counted.between.total()
    total = own + libraries + between
    print(f"{total} launches: {own} kernels of inductor, {libraries} of libraries, {between} between the graphs")
    print(f"{counted.graphs} graphs, forward and backward, scheduled in {counted.seconds:.0f} s of the processor")
    for name, times in (counted.own + counted.libraries + counted.between).most_common(args.names):
        print(f"{times:5}  {name}")


if __name__ == "__main__":
    main()

"""Time the original DARTS search code (a checkout of quark0/darts) under a current PyTorch.

The checkout is imported as it stands; ``load`` patches torch instead, so run this file as a process
of its own. ``measure`` does that and returns the printed line, so a caller that uses JAX never
imports torch.

    python experiments/benchmarks/peer.py --peer=PATH --batch=16 --repeats=3      # prints one JSON
    line of timings python experiments/benchmarks/peer.py --peer=PATH --check                     #
    compares its hypergradient with an exact one
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import statistics
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    import torch

ETA, MOMENTUM, DECAY, CLIP = 0.025, 0.9, 3e-4, 5.0  # the defaults of its train_search.py
SIZES = {"batch": 16, "width": 16, "depth": 8, "size": 32, "classes": 10, "repeats": 3}
TEXT_SIZES = {"batch": 64, "width": 300, "length": 35, "vocabulary": 10_000, "repeats": 3}
DROPOUTS = (
    0.75,
    0.25,
    0.75,
    0.2,
)  # output, hidden, cell's input, embedded words: the defaults of its rnn/train_search.py


def fail(message: str) -> NoReturn:
    """Print one line to stderr and exit with status 2."""
    print(f"peer.py: {message}", file=sys.stderr)
    raise SystemExit(2)


def load(peer: str, device: str, part: str = "cnn") -> tuple[type, type]:
    """Import the search network and ``Architect`` of a part of the checkout, after patching torch
    so that they run unedited.
    """
    global torch  # imported here only, so that a caller of `measure` does not load PyTorch
    folder = Path(peer).expanduser().resolve() / part
    if not (folder / "model_search.py").is_file():
        fail(f"no {part}/model_search.py under {peer!r}: --peer needs a checkout of quark0/darts")
    sys.dont_write_bytecode = True  # leave no __pycache__ in someone else's checkout
    sys.path.insert(0, str(folder))
    try:
        import model_search
        import torch
        from architect import Architect
    except ImportError as error:
        fail(
            "PyTorch is missing: pip install torch"
            if error.name == "torch"
            else f"cannot import the peer: {error}"
        )
    if device == "cuda" and not torch.cuda.is_available():
        fail("--device=cuda, but this PyTorch sees no GPU")
    if device == "cpu":  # the checkout calls .cuda() on its modules and alphas unconditionally
        torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *args, **kwargs: self
    view = (
        torch.Tensor.view
    )  # it flattens with view(-1), which refuses channels_last weights and momentum buffers
    torch.Tensor.view = lambda self, *shape: (
        self.reshape(-1) if shape == (-1,) else view(self, *shape)
    )
    # torch still takes the old argument order, as in sub(scalar, tensor), with the same meaning and
    # a warning
    warnings.filterwarnings("ignore", message="This overload of")
    return model_search.RNNModelSearch if part == "rnn" else model_search.Network, Architect


def set_precision(args: argparse.Namespace) -> None:
    """Let a GPU round the factors of matrix products and convolutions to TF32, or not; PyTorch has
    its own default.
    """
    if args.tf32 is not None:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32 == "on"


class Setup:
    """The original network, its architect, an SGD optimiser, and one random training and validation
    batch.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        """Build all of it from a fixed seed."""
        network_class, architect_class = load(args.peer, args.device)
        set_precision(args)
        torch.set_default_dtype(torch.float64 if args.check else torch.float32)
        torch.set_num_threads(args.threads or torch.get_num_threads())
        torch.backends.cudnn.benchmark = True  # as train_search.py sets it
        torch.manual_seed(0)
        layout = torch.channels_last if args.layout == "channels_last" else torch.contiguous_format

        class LaidOut(network_class):
            """The same network, whose unrolled twin gets the same memory layout."""

            def new(self) -> torch.nn.Module:
                return super().new().to(memory_format=layout)

        self.loss = torch.nn.CrossEntropyLoss()
        self.model = (
            LaidOut(args.width, args.classes, args.depth, self.loss).cuda().to(memory_format=layout)
        )
        self.sgd = torch.optim.SGD(
            self.model.parameters(), ETA, momentum=MOMENTUM, weight_decay=DECAY
        )
        options = {
            "momentum": MOMENTUM,
            "weight_decay": DECAY,
            "arch_learning_rate": 3e-4,
            "arch_weight_decay": 1e-3,
        }
        self.architect = architect_class(self.model, types.SimpleNamespace(**options))
        self.batches: list[torch.Tensor] = []
        for _ in range(2):
            images = torch.randn(args.batch, 3, args.size, args.size).to(
                args.device, memory_format=layout
            )
            self.batches += [images, torch.randint(args.classes, (args.batch,)).to(args.device)]
        self.alpha_step = functools.partial(self.architect.step, *self.batches, ETA, self.sgd)

    def weight_step(self) -> None:
        """Take one SGD step on the weights, as the loop in train_search.py does."""
        self.sgd.zero_grad()
        self.loss(self.model(self.batches[0]), self.batches[1]).backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), CLIP)
        self.sgd.step()


def peak_megabytes(device: str) -> float | None:
    """Peak memory: what torch allocated on a GPU, or on Linux the resident memory of this whole
    process.
    """
    if device == "cuda":
        return round(torch.cuda.max_memory_allocated() / 2**20, 1)
    status = Path(
        "/proc/self/status"
    )  # not ru_maxrss, which can carry over the peak of the parent process
    words = status.read_text().partition("VmHWM:")[2].split() if status.is_file() else []
    return round(int(words[0]) / 1024, 1) if words else None


def milliseconds(step: Callable[[], None], args: argparse.Namespace) -> list[float]:
    """Time the step so often as asked for, after one warm-up."""
    times = []
    for _ in range(args.repeats + 1):
        start = time.perf_counter()
        step()
        if args.device == "cuda":
            torch.cuda.synchronize()
        times.append(round((time.perf_counter() - start) * 1e3, 3))
    return times[1:]


def timings(args: argparse.Namespace) -> dict[str, Any]:
    """Time the weight step and both architecture steps, each after one warm-up."""
    setup = Setup(args)

    first, second = (
        functools.partial(setup.alpha_step, unrolled=unrolled) for unrolled in (False, True)
    )
    # Weight steps come first: the second-order step reads the momentum buffers they leave behind.
    steps = {
        "weight_step_ms": setup.weight_step,
        "first_order_ms": first,
        "second_order_ms": second,
    }
    runs = {name: milliseconds(step, args) for name, step in steps.items()}
    return {
        "what": "peer",
        "layout": args.layout,
        **{name: getattr(args, name) for name in SIZES},
        **{name: round(statistics.median(values), 3) for name, values in runs.items()},
        "runs": runs,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": args.device,
        "tf32_convolutions": args.device == "cuda" and torch.backends.cudnn.allow_tf32,
        "tf32_products": args.device == "cuda" and torch.backends.cuda.matmul.allow_tf32,
        "parameters": sum(p.numel() for p in setup.model.parameters()),
        "peak_memory_mb": peak_megabytes(args.device),
    }


def train_timings(args: argparse.Namespace) -> dict[str, Any]:
    """Time the training step of DARTS_V2 with its auxiliary head, drop path off (the original one
    needs a GPU).
    """
    load(args.peer, args.device)
    set_precision(args)
    try:
        import torchvision.transforms  # noqa: F401
    except ImportError:  # its utils imports it for the data, which are random here
        sys.modules["torchvision"] = types.ModuleType("torchvision")
        sys.modules["torchvision.transforms"] = sys.modules["torchvision"].transforms = (
            types.ModuleType("transforms")
        )
    import genotypes
    from model import NetworkCIFAR

    torch.set_num_threads(args.threads or torch.get_num_threads())
    torch.backends.cudnn.benchmark = True
    torch.manual_seed(0)
    layout = torch.channels_last if args.layout == "channels_last" else torch.contiguous_format
    model = (
        NetworkCIFAR(args.width, args.classes, args.depth, True, genotypes.DARTS_V2)
        .cuda()
        .to(memory_format=layout)
    )
    model.drop_path_prob = 0
    sgd = torch.optim.SGD(model.parameters(), ETA, momentum=MOMENTUM, weight_decay=DECAY)
    images = torch.randn(args.batch, 3, args.size, args.size).to(args.device, memory_format=layout)
    labels, loss = (
        torch.randint(args.classes, (args.batch,)).to(args.device),
        torch.nn.CrossEntropyLoss(),
    )

    def step() -> None:
        sgd.zero_grad()
        logits, auxiliary = model(images)
        (loss(logits, labels) + 0.4 * loss(auxiliary, labels)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        sgd.step()

    runs = milliseconds(step, args)
    return {
        "what": "peer",
        "layout": args.layout,
        **{name: getattr(args, name) for name in SIZES},
        "train_step_ms": round(statistics.median(runs), 3),
        "runs": {"train_step_ms": runs},
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": args.device,
        "tf32_convolutions": args.device == "cuda" and torch.backends.cudnn.allow_tf32,
        "tf32_products": args.device == "cuda" and torch.backends.cuda.matmul.allow_tf32,
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_memory_mb": peak_megabytes(args.device),
    }


def text_timings(args: argparse.Namespace) -> dict[str, Any]:
    """Time the steps of the recurrent search, or of the training of DARTS_V2's recurrent cell, on
    random words.
    """
    search_class, architect_class = load(args.peer, args.device, "rnn")
    set_precision(args)
    import genotypes
    import model as models

    torch.set_num_threads(args.threads or torch.get_num_threads())
    torch.manual_seed(0)
    # Its way into the embedding is gone from torch; no rows are dropped here, so a look-up is the
    # same.
    models.embedded_dropout = lambda embed, words, dropout=0, scale=None: embed(words)
    sizes = (args.vocabulary, args.width, args.width, args.width, *DROPOUTS)
    if args.what == "rnn_evaluate":
        model = models.RNNModel(
            *sizes, 0, cell_cls=models.DARTSCell, genotype=genotypes.DARTS_V2
        ).cuda()
    else:
        model = search_class(*sizes, 0).cuda()
    sgd = torch.optim.SGD(model.parameters(), 20.0, weight_decay=5e-7)
    options = {"wdecay": 5e-7, "clip": 0.25, "arch_lr": 3e-3, "arch_wdecay": 1e-3}

    def words() -> list[torch.Tensor]:
        stream = torch.randint(args.vocabulary, (args.length + 1, args.batch)).to(args.device)
        return [stream[:-1], stream[1:].reshape(-1)]

    train, valid = words(), words()
    hidden = model.init_hidden(args.batch)

    def weight_step() -> None:  # as the loop in train_search.py and train.py
        sgd.zero_grad()
        log_prob, _, outputs, _ = model(train[0], hidden, return_h=True)
        loss = torch.nn.functional.nll_loss(log_prob.view(-1, log_prob.size(2)), train[1])
        loss = loss + sum(1e-3 * (h[1:] - h[:-1]).pow(2).mean() for h in outputs[-1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.25)
        sgd.step()

    if args.what == "rnn_evaluate":
        steps = {"train_step_ms": weight_step}
    else:
        architect = architect_class(model, types.SimpleNamespace(**options))
        alpha_step = functools.partial(architect.step, hidden, *train, hidden, *valid, sgd)
        first, second = (
            functools.partial(alpha_step, unrolled=unrolled) for unrolled in (False, True)
        )
        steps = {"weight_step_ms": weight_step, "first_order_ms": first, "second_order_ms": second}
    runs = {name: milliseconds(step, args) for name, step in steps.items()}
    return {
        "what": "peer",
        "layout": "default",
        **{name: getattr(args, name) for name in TEXT_SIZES},
        **{name: round(statistics.median(values), 3) for name, values in runs.items()},
        "runs": runs,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": args.device,
        "parameters": sum(p.numel() for p in model.parameters()),
        "peak_memory_mb": peak_megabytes(args.device),
    }


def check(args: argparse.Namespace) -> dict[str, Any]:
    """Give the relative error of the original second-order gradient against double backward, in
    float64.
    """
    setup = Setup(args)
    setup.weight_step()  # so that momentum buffers exist
    model, (images, labels, valid_images, valid_labels) = setup.model, setup.batches
    alphas, (names, weights) = model.arch_parameters(), zip(*model.named_parameters(), strict=True)
    setup.architect.optimizer.param_groups[0]["lr"] = (
        0.0  # every radius below starts from the same alphas
    )
    difference = setup.architect._hessian_vector_product

    def exact(momentum: float = MOMENTUM, hessian: bool = True) -> torch.Tensor:
        gradients = torch.autograd.grad(
            setup.loss(model(images), labels), weights, create_graph=hessian
        )
        buffers = [setup.sgd.state[w]["momentum_buffer"] for w in weights]
        moved = [
            w - ETA * (momentum * b + g + DECAY * w)
            for w, b, g in zip(weights, buffers, gradients, strict=True)
        ]
        logits = torch.func.functional_call(
            model, dict(zip(names, moved, strict=True)), (valid_images,)
        )
        return torch.cat(
            [g.flatten() for g in torch.autograd.grad(setup.loss(logits, valid_labels), alphas)]
        )

    def original(radius: float) -> torch.Tensor:
        setup.architect._hessian_vector_product = functools.partial(difference, r=radius)
        setup.alpha_step(unrolled=True)
        return torch.cat([alpha.grad.flatten() for alpha in alphas])

    def errors() -> dict[str, float]:
        full = exact()
        # The first two are deliberate mistakes, to show how large an error that matters is here.
        others = {"no_hessian": exact(hessian=False), "no_momentum": exact(momentum=0.0)}
        others |= {
            f"radius_{radius:g}": original(radius) for radius in (1e-2, 1e-3, 1e-6)
        }  # the original uses 1e-2
        return {name: float((other - full).norm() / full.norm()) for name, other in others.items()}

    result = {"what": "peer-check", "layout": args.layout, "as_is": errors()}
    # Differences of gradients across a kink are no derivative, so a wide radius can agree only on a
    # smooth network.
    torch.nn.ReLU.forward = lambda self, x: torch.nn.functional.softplus(x)
    torch.nn.MaxPool2d.forward = lambda self, x: torch.nn.functional.avg_pool2d(
        x, 3, self.stride, 1
    )
    return result | {"smooth": errors()}


TIMINGS = {
    "search": (timings, SIZES),
    "evaluate": (train_timings, SIZES),
    "rnn": (text_timings, TEXT_SIZES),
    "rnn_evaluate": (text_timings, TEXT_SIZES | {"batch": 16, "width": 850}),
}


def measure(
    peer: str | Path, channels_last: bool = False, check: bool = False, **options: Any
) -> dict[str, Any]:
    """Run this file as its own process with these command line options; RuntimeError with its words
    if it fails.
    """
    command = [sys.executable, str(Path(__file__).resolve()), f"--peer={peer}"]
    command += [f"--{name}={value}" for name, value in options.items() if value is not None]
    command += ["--channels_last"] * channels_last + ["--check"] * check
    # Huge pages, which may be asked of glibc for our steps (docs/speed.md), are no part of how
    # PyTorch is used.
    environment = {name: value for name, value in os.environ.items() if name != "GLIBC_TUNABLES"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        raise RuntimeError(
            done.stderr.strip() or f"the peer process ended with status {done.returncode}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Parse the command line, measure or check, and print one JSON line."""
    parser = argparse.ArgumentParser(
        description="Time the original DARTS code under a current PyTorch."
    )
    parser.add_argument("--peer", required=True, help="a checkout of quark0/darts")
    for name in SIZES | TEXT_SIZES:
        parser.add_argument(f"--{name}", type=int, help="default: see SIZES and TEXT_SIZES")
    layout = {
        "dest": "layout",
        "default": "default",
        "action": "store_const",
        "const": "channels_last",
    }
    parser.add_argument("--channels_last", **layout, help="use that memory format")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument(
        "--tf32",
        choices=("on", "off"),
        help="on a GPU; default: as PyTorch has it, convolutions alone",
    )
    parser.add_argument(
        "--threads", type=int, default=0, help="CPU threads; 0 leaves torch's choice"
    )
    parser.add_argument(
        "--what", choices=tuple(TIMINGS), default="search", help="which steps to time"
    )
    parser.add_argument(
        "--check", action="store_true", help="check the hypergradient of a tiny network, no timing"
    )
    args = parser.parse_args()
    run, sizes = TIMINGS[args.what]
    for name, value in sizes.items():
        setattr(args, name, value if getattr(args, name) is None else getattr(args, name))
    if (
        min(getattr(args, name) for name in sizes) < 1
        or sizes is SIZES
        and args.depth < 3
        or args.threads < 0
    ):
        fail("sizes and repeats must be positive, depth at least 3, threads not negative")
    if args.check:
        args.width, args.depth, args.size, args.batch = 4, 3, 8, 8
    print(json.dumps((check if args.check else run)(args)), flush=True)


if __name__ == "__main__":
    main()

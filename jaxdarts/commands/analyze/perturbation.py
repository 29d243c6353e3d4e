"""How much a supernet loses when its mix is perturbed, as SmoothDARTS does."""

import dataclasses
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxdarts import perturb, report, runs
from jaxdarts.commands.analyze import subjects
from jaxdarts.commands.analyze.subjects import plain
from jaxdarts.runs import flag
from jaxdarts.runs.flags import NOT_NEGATIVE, POSITIVE

KINDS = {"random": "random noise", "worst": "worst mix nearby"}


@dataclasses.dataclass(frozen=True)
class Perturbation(subjects.OfSearches, subjects.OnImages):
    """Loss and accuracy of a search's supernet at mixes near that of its end.

    Random noise is the mean over mixes drawn as SDARTS-RS draws them; the worst mix is that of
    SDARTS-ADV, found for every batch by itself.
    """

    COMMAND: ClassVar[str] = "analyze perturbation"

    part: Literal["train", "valid", "test", "own"] = flag(
        "own",
        "Images: train and valid are the halves of the search, test is the test images; own is the"
        " same as valid.",
    )
    epsilons: tuple[float, ...] = flag(
        (0.0, 0.03, 0.1, 0.2, 0.3, 0.5),
        "Largest changes of a weight of the mix (0.03 to 0.3 in SmoothDARTS).",
        NOT_NEGATIVE,
    )
    draws: int = flag(8, "Number of random mixes for each of --epsilons.", POSITIVE)
    attack_steps: int = flag(
        7, "Steps of the attack that looks for the worst mix; 0 leaves it out.", NOT_NEGATIVE
    )


def perturbation_of_runs(arguments: list[str]) -> None:
    config = subjects.parse(Perturbation, arguments, Perturbation.__doc__)
    for name in config.runs:
        run = subjects.open_run(name)
        search = subjects.restored(run, config)
        values = measured(config, search)
        changes = [float(epsilon) for epsilon in config.epsilons]
        charts = {}
        for title, key, scale in (("Loss", "loss", 1), ("Accuracy, percent", "accuracy", 100)):
            lines = {
                KINDS[kind]: list(zip(changes, (scale * of_kind[key]).tolist(), strict=True))
                for kind, of_kind in values.items()
            }
            charts[key] = report.charts.curves(
                lines, title=title, xlabel="largest change of a weight of the mix"
            )
        section = report.sections.Section(
            "perturbation",
            "Accuracy at a perturbed mix",
            f"Loss and accuracy of the supernet on {search.images}, at mixes that differ from that"
            " of the search's end by at most so much in every weight. Random noise is the mean of"
            f" {config.draws} mixes.",
            {
                f"Accuracy at {epsilon:g}, {KINDS[kind]}": f"{100 * accuracy:.1f} %"
                for kind, of_kind in values.items()
                for epsilon, accuracy in zip(changes, of_kind["accuracy"], strict=True)
            },
            pictures=charts,
        )
        numbers = {
            "epsilons": changes,
            "draws": config.draws,
            "seed": config.seed,
            **{
                kind: {key: plain(value) for key, value in of_kind.items()}
                for kind, of_kind in values.items()
            },
        }
        subjects.report(run, section, numbers)


def measured(config: Perturbation, search: subjects.Restored) -> dict[str, dict[str, np.ndarray]]:
    """Mean loss and accuracy, [epsilons] each, of the kinds of perturbations."""

    def at(kind: str, params: Any, arch: Any, key: Any, epsilon: Any) -> Any:
        mix = search.mix(arch)

        def of_batch(batch, key):
            def loss(mix):
                return search.loss(params, mix, batch)[0]

            if kind == "random":
                move = perturb.random_noise(search.cells, lambda step: epsilon)
            else:
                move = perturb.adversarial(search.cells, lambda step: epsilon, config.attack_steps)
            return search.loss(params, move(mix, loss, key, jnp.zeros((), jnp.int32)), batch)

        def of_all(keys):
            values = jax.lax.map(lambda pair: of_batch(*pair), (search.batches, keys))
            return jax.tree.map(jnp.mean, values)

        number = len(search.batches["label"])
        if kind == "worst":
            return of_all(jax.random.split(key, number))
        # One mix of noise is the same for all batches.
        draws = jax.random.split(key, config.draws)
        means = jax.lax.map(lambda one: of_all(jnp.broadcast_to(one, number)), draws)
        return jax.tree.map(jnp.mean, means)

    out = {}
    for kind in ["random", *(["worst"] if config.attack_steps else [])]:
        compiled = runs.jitted(lambda *arguments, kind=kind: at(kind, *arguments))
        rows = [
            compiled(search.params, search.arch, jax.random.key(config.seed), np.float32(epsilon))
            for epsilon in config.epsilons
        ]
        loss, accuracy = (np.array(column, np.float64) for column in zip(*rows, strict=True))
        out[kind] = {"loss": loss, "accuracy": accuracy}
    return out

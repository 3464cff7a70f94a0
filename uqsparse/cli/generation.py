"""`uqsparse generate`: strings of a language model that satisfy a constraint, with their weights."""

import json
import time
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from uqsparse.cli.application import app, fail

if TYPE_CHECKING:
    from uqsparse.inference.constrained.smc import Population
    from uqsparse.inference.constrained.weighted_strings import WeightedStrings
    from uqsparse.inference.constraints.constraint import Constraint
    from uqsparse.inference.constraints.vocabulary import Vocabulary

_MAX_ROWS = 20
_LIVE_ROWS = 8


class LocalMethod(StrEnum):
    """Samplers of the next token."""

    auto = "auto"
    two_loop = "two-loop"
    recursive = "recursive"
    geometric = "geometric"
    mask = "mask"
    twist = "twist"


@app.command()
def generate(
    prompt: Annotated[str, typer.Option(help="Text that the strings follow.")],
    model: Annotated[str, typer.Option(help="smollm2, or a GGUF file of a Llama model.")] = "smollm2",
    regex: Annotated[
        str | None, typer.Option(help="Regular expression that the whole string has to match.", show_default=False)
    ] = None,
    grammar: Annotated[
        str | None, typer.Option(metavar="FILE|json", help="Grammar file, or json.", show_default=False)
    ] = None,
    fields: Annotated[
        str | None,
        typer.Option(
            metavar="JSON",
            help='JSON objects with these fields, as {"name": "string", "age": "integer", "sex": ["f", "m"]}.',
            show_default=False,
        ),
    ] = None,
    predicate: Annotated[
        str | None,
        typer.Option(
            metavar="FILE.py:NAME",
            help="A pair of functions (prefix, complete) from text to bool in a file.",
            show_default=False,
        ),
    ] = None,
    particles: Annotated[int, typer.Option(min=1, help="Strings grown side by side.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a string.")] = 48,
    chat: Annotated[bool, typer.Option("--chat", help="Put the prompt to the model as a user's message.")] = False,
    temperature: Annotated[float, typer.Option(help="Below 1 the model is sharpened, before conditioning.")] = 1.0,
    local: Annotated[LocalMethod, typer.Option(help="How the next token is drawn and weighted.")] = LocalMethod.auto,
    max_rejects: Annotated[
        int | None, typer.Option(min=2, help="Most rejected candidates a step.", show_default=False)
    ] = None,
    ess_threshold: Annotated[float, typer.Option(help="Resample below this fraction of effective particles.")] = 0.5,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same strings.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="JSON file for strings, weights and evidence.", show_default=False)
    ] = None,
    progress: Annotated[bool, typer.Option("--progress/--no-progress", help="Show strings as they grow.")] = True,
) -> None:
    """Generate strings from a language model under a constraint: exactly weighted, not masked.

    Prints strings with their probabilities given the constraint, the probability of the constraint itself (the
    evidence), and the number of constraint tests.
    """
    constraints = {"--regex": regex, "--grammar": grammar, "--fields": fields, "--predicate": predicate}
    given = [name for name, value in constraints.items() if value is not None]
    if len(given) != 1:
        fail(f"give one of {', '.join(constraints)}; got {' and '.join(given) or 'none'}")
    if out is not None and not out.parent.is_dir():
        fail(f"--out: directory {str(out.parent)!r} does not exist")
    if out is not None and out.is_dir():
        fail(f"--out: {str(out)!r} is a directory")
    console = Console()
    reached: list[Population] = []
    try:
        import jax

        from uqsparse.data.language import load_tokenizer, smollm2
        from uqsparse.inference.constrained.smc import constrained_smc_steps, weighted_strings
        from uqsparse.inference.constraints.vocabulary import Vocabulary
        from uqsparse.nn import LlamaDecoder, load_gguf

        path = smollm2().path if model == "smollm2" else Path(model)
        tokenizer = load_tokenizer(path)
        vocabulary = Vocabulary(tokenizer.token_bytes, tokenizer.end)
        constraint = _constraint(vocabulary, max_tokens, constraints)
        with console.status("Loading the model (converted at the first time)"):
            llama = load_gguf(path)
        if not chat and prompt.endswith(" "):
            console.print(
                "[bold yellow]warning[/] the prompt ends with a space, where most words bring their own: end it "
                "without one, and begin the constraint with it"
            )
        tokens = tokenizer.chat(prompt) if chat else tokenizer.encode(prompt)
        decoder = LlamaDecoder(llama, tokens, max_tokens, end=tokenizer.ends, temperature=temperature)
        steps = constrained_smc_steps(
            jax.random.key(seed),
            decoder,
            constraint,
            max_length=max_tokens,
            n_particles=particles,
            ess_threshold=ess_threshold,
            local=local.value,
            max_rejects=max_rejects,
        )
        start = time.perf_counter()
        for population in _shown(steps, vocabulary, console, progress and console.is_terminal):
            reached[:] = [population]
        seconds = time.perf_counter() - start
        result = weighted_strings(reached[-1], constraint)
        if out is not None:
            _save(result, out)
    except (ValueError, TypeError, OSError, ImportError) as error:
        fail(error)
    except KeyboardInterrupt:
        console.show_cursor(True)
        for population in reached:
            _print_ended(population, vocabulary, console)
        typer.echo("interrupted", err=True)
        raise typer.Exit(130) from None
    _print_result(result, seconds, console)
    raise typer.Exit(0 if result.probabilities.any() else 1)


def _constraint(vocabulary: "Vocabulary", max_length: int, options: Mapping[str, str | None]) -> "Constraint":
    from uqsparse.inference.constraints import GrammarConstraint, PredicateConstraint, RegexConstraint
    from uqsparse.inference.model_files import load_named

    [(option, value)] = [(name, value) for name, value in options.items() if value is not None]
    if option == "--regex":
        return RegexConstraint(value, vocabulary, max_length=max_length)
    if option == "--grammar" and value == "json":
        return GrammarConstraint.json(vocabulary)
    if option == "--grammar":
        return GrammarConstraint(Path(value).read_text(encoding="utf-8"), vocabulary)
    if option == "--fields":
        try:
            return GrammarConstraint.json(vocabulary, json.loads(value))
        except json.JSONDecodeError as error:
            raise ValueError(f"--fields is no JSON: {error}") from None
    pair, _ = load_named(value, "a pair of functions (prefix, complete)")
    if not (isinstance(pair, tuple | list) and len(pair) == 2 and all(map(callable, pair))):
        raise ValueError(f"--predicate {value}: expected a pair of functions (prefix, complete), got {pair!r}")
    prefix, complete = pair
    return PredicateConstraint(prefix, complete, vocabulary)


def _shown(
    steps: "Iterator[Population]", vocabulary: "Vocabulary", console: Console, live: bool
) -> "Iterator[Population]":
    """The same steps; on a terminal the strings are shown as they grow."""
    if not live:
        yield from steps
        return
    with Live(console=console, transient=True, refresh_per_second=8) as screen:
        screen.update(Text("Compiling the model and reading the prompt ...", style="dim"))
        for population in steps:
            screen.update(_growing(population, vocabulary, console.width))
            yield population


def _growing(population: "Population", vocabulary: "Vocabulary", width: int) -> Table:
    n_finished = sum(particle.finished for particle in population.particles)
    title = f"token {population.n_steps}, {n_finished} of {len(population.particles)} strings ended"
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="dim", min_width=60)
    table.add_column("weight", justify="right")
    table.add_column("string so far", no_wrap=True)
    heaviest = sorted(population.particles, key=lambda particle: -particle.log_weight)
    for particle in heaviest[:_LIVE_ROWS]:
        text = json.dumps(vocabulary.decode(particle.tokens), ensure_ascii=False)[-(width - 14) :]
        table.add_row(f"{particle.log_weight:.1f}", Text(text, style="green" if particle.finished else ""))
    return table


def _print_result(result: "WeightedStrings", seconds: float, console: Console) -> None:
    strings = result.posterior()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("string", overflow="fold")
    for string in strings[:_MAX_ROWS]:
        table.add_row(f"{string.probability:.3f}", escape(string.text))
    console.print(table, highlight=False)
    if len(strings) > _MAX_ROWS:
        console.print(f"... and {len(strings) - _MAX_ROWS} more", highlight=False)
    n = len(result.strings)
    alive = int((result.probabilities > 0).sum())
    console.print(f"\n{len(strings)} different strings, {result.ess:.1f} effective of {n} particles, {alive} alive")
    if strings:
        error = result.log_evidence_error
        console.print(f"log evidence of the constraint {result.log_evidence:.2f} ± {error:.2g}", highlight=False)
        if result.n_ancestors == 1 < n:
            console.print("[bold yellow]warning[/] all strings descend from one particle: do not rely on that error")
    else:
        console.print("[bold yellow]warning[/] no particle reached a member of the constraint: the evidence is zero")
    masking = len(result.vocabulary) * n * result.n_steps
    console.print(
        f"constraint tests {result.n_tests} ({result.n_tests_requested} with repeats); testing every token of every "
        f"step would take {masking}",
        highlight=False,
    )
    console.print(f"{result.n_steps} steps in {seconds:.1f} s, compilation included", highlight=False)


def _print_ended(population: "Population", vocabulary: "Vocabulary", console: Console) -> None:
    ended = [p for p in population.particles if p.finished and p.log_weight > float("-inf")]
    console.print(f"after {population.n_steps} tokens {len(ended)} of {len(population.particles)} strings had ended:")
    for particle in sorted(ended, key=lambda p: -p.log_weight):
        console.print(f"  {particle.log_weight:.2f}  {escape(vocabulary.decode(particle.tokens))}", highlight=False)


def _save(result: "WeightedStrings", out: Path) -> None:
    from uqsparse.cli.output_files import write_json

    content: dict[str, Any] = {
        "strings": [
            {"text": text, "tokens": list(tokens), "log_weight": weight if weight > float("-inf") else None}
            for text, tokens, weight in zip(result.texts, result.strings, result.log_weights.tolist(), strict=True)
        ],
        "log_evidence": result.log_evidence if result.probabilities.any() else None,
        "log_evidence_error": result.log_evidence_error,
        "effective_sample_size": result.ess,
        "constraint_tests": result.n_tests,
        "constraint_tests_requested": result.n_tests_requested,
    }
    write_json(out, content)

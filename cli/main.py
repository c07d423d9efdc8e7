"""The command line: read a config, call the API, say where the results lie; no numerics here.

torch and Lightning are imported only by the verb that needs them, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import io
import os
import shlex
import sys
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from ..ssl.common.errors import EarthSSLError
from ..ssl.runtime.signals import Stopped, heard
from .checkpoint_verbs import (
    HUB_VERBS,
    USE_VERBS,
    add_hub_options,
    add_use_options,
    model_card,
    run_hub_verb,
    run_use_verb,
)
from .look import LOOK_VERBS, add_look_options, run_look_verb

VERBS = {
    "quickstart": "synthetic planets → prepare → pretrain → probe → report, in minutes, no network, no GPU",
    "run": "the same four steps for any config file, into one folder; goes on where it was interrupted",
    "prepare": "any gridded source → training store (--info STORE describes one)",
    "check": "source → every value looked at: a table of ranges, gaps, repeats and jumps, before anything is prepared",
    "plan": "config → memory, hours and disk of its pretraining, measured on its first steps; finders, profiler",
    "pretrain": "training store → checkpoint (--resume goes on with an interrupted run)",
    "probe": "checkpoints → the table beside every baseline they must beat (task: enso, states, forecast, …)",
    "finetune": "checkpoint, store and own labels → tuned checkpoint, predictions, and the table of what it must beat",
    "worth": "store and own labels → whether pretraining can be expected to pay, before any training",
    "audit": "pretext tasks → how much of their skill is left above trivial cues",
    "matrix": "pretext tasks × downstream tasks × layers at equal budget; goes on where it was interrupted",
    "few-shot": "k examples a class, or none → classes, fillings, forecasts of frozen encoders: one table",
    "controls": "worlds with a known answer → whether pretraining finds what it must, and no more",
    "report": "store, runs and probe → one self-contained HTML file",
    "pull": "bring a checkpoint here from file:, https:, s3: or hf:, whole and verified",
    "push": "put a checkpoint into a registry (a folder, s3:) or a repository (hf:)",
    "list": "what a registry holds, with its scores; without one: what was pulled",
    "verify": "check a checkpoint: hashes, weights, and that it does what it did at home",
    "card": "print a checkpoint's model card; --probe FOLDER attaches the table of a probe of it first",
    "embed": "checkpoint and data → features as NetCDF or Zarr, chunk by chunk",
    "look": "store and checkpoint → a local page: fields, feature space, analogues, labelling (--export FILE)",
    "active": "known labels → how many of them active learning needs, beside random choice (--simulate)",
    "export": "checkpoint → ONNX, torch.export or TorchScript file that takes raw fields, compared with the encoder",
}
WORLDS = {"weather": "quickstart", "linear": "quickstart-linear"}
CONFIGURED = ("prepare", "worth", "pretrain", "probe", "finetune", "report", "audit", "matrix", "few-shot", "controls")
EPILOG = """\
Every verb reads its section of --config FILE (see configs/) and takes overrides, values in YAML:
  earthssl pretrain --config configs/kaplan.yaml --out runs/mine --training.steps 200
`earthssl VERB --help` lists the settings. Mistakes end in one line and status 2;
--traceback shows where an error comes from."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a verb and return the exit status.

    0 done; 2 a mistake of the user's or an error of a library, said in one line (with --traceback it is raised);
    130, 143 or 138 where Ctrl-C, SIGTERM or SIGUSR1 ended it in an
    orderly way: it goes on where it stopped.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    traceback = "--traceback" in words
    words = [word for word in words if word != "--traceback"]
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal in ASCII or Latin-1 shows "?" for an arrow
            stream.reconfigure(errors="replace")
    parser = argparse.ArgumentParser(
        prog="earthssl",
        description="Pretrain transformers on unlabelled reanalysis, and prove what the frozen encoder is worth.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for name, what in VERBS.items():
        _add_options(verbs.add_parser(name, help=what, description=what, add_help=False, allow_abbrev=False), name)
    options, rest = parser.parse_known_args(words)
    command = "earthssl " + shlex.join(words)
    try:
        if options.help:
            _help(verbs.choices[options.verb], options.verb)
            return 0
        with heard():
            _run(options, rest, command)
    except EarthSSLError as error:
        if traceback:
            raise
        print(f"earthssl {options.verb}: {_plain(str(error))}", file=sys.stderr)
        return 2
    except Stopped as stopped:
        how = "--resume goes on" if options.verb == "pretrain" else "the same command goes on"
        print(f"earthssl {options.verb}: {stopped}; {how}", file=sys.stderr)
        return stopped.status
    except KeyboardInterrupt:
        how = "with --resume" if options.verb == "pretrain" else "again"
        print(f"earthssl {options.verb}: interrupted; run the same command {how} to go on", file=sys.stderr)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:
        if traceback:
            raise
        print(f"earthssl {options.verb}: {_plain(_unforeseen(error))}", file=sys.stderr)
        return 2
    return 0


def _plain(text: str) -> str:
    """Return a text in one line, without signs that a terminal would obey."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(text.split()))


def _unforeseen(error: Exception) -> str:
    """Return one line on an error that nobody expected: of the system, or of a library."""
    if isinstance(error, OSError) and error.filename is not None:
        return f"{error.filename}: {error.strerror}; check the path"
    last = error.__traceback__
    while last is not None and last.tb_next is not None:
        last = last.tb_next
    module = str(last.tb_frame.f_globals.get("__name__", "")) if last is not None else ""
    said = str(error) or "no message"
    return (
        f"{type(error).__name__} from {module.partition('.')[0] or 'python'}: {said[:600]}; the same command with "
        "--traceback shows where"
    )


def _add_options(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.add_argument("-h", "--help", action="store_true", help="show this and every setting")
    if verb == "check":
        parser.add_argument("path", nargs="*", help="files, Zarr folders, globs; none: the source of --config")
        parser.add_argument("--out", metavar="FILE", help="write the table as an HTML page, too")
    if verb in (*CONFIGURED, "run", "plan", "check"):
        parser.add_argument("--config", metavar="FILE", help="YAML of the run")
    if verb == "prepare":
        parser.add_argument("--info", metavar="STORE", help="describe a store and stop")
        parser.add_argument(
            "--pack", nargs=2, metavar=("STORE", "OUT"), help="write a store anew, compressed, and stop"
        )
    if verb == "plan":
        parser.add_argument("--store", metavar="FOLDER", help="a finished store (default: the shape of the source)")
        parser.add_argument("--json", action="store_true", help="print JSON")
        parser.add_argument("--find", metavar="WHAT", default="", help="lr or batch: find a rate or a batch size")
        parser.add_argument("--profile", action="store_true", help="the operators that take a step's time")
        parser.add_argument("--out", metavar="FILE", help="picture of --find lr, Chrome trace of --profile")
    if verb == "quickstart":
        parser.add_argument("--source", choices=["planet", "ersst"], default="planet", help="what to train on")
        parser.add_argument(
            "--world", choices=["both", *WORLDS], default="both",
            help="which planet: one with weather, where pretraining pays, or a linear one, where it cannot; both: the "
            "first, then the second in short (overrides are for the first)",
        )  # fmt: skip
    if verb in ("quickstart", "run"):
        parser.add_argument("--out", metavar="FOLDER", help="where everything goes (default runs/NAME)")
    if verb in HUB_VERBS:
        add_hub_options(parser, verb)
    if verb == "card":
        parser.add_argument("checkpoint", nargs="?", help="a checkpoint folder, or the folder of its run")
        parser.add_argument("--probe", metavar="FOLDER", help="what `earthssl probe` wrote")
    if verb in USE_VERBS:
        add_use_options(parser, verb)
    if verb in LOOK_VERBS:
        add_look_options(parser, verb)


def _help(parser: argparse.ArgumentParser, verb: str) -> None:
    parser.print_help()
    if verb in CONFIGURED:
        from ..downstream.tasks.registry import TASKS
        from ..ssl.common.config import describe
        from .verbs import config_of

        for task in TASKS if verb == "probe" else [""]:
            of = f" with task {task}" if task else ""
            print(f"\nsettings of '{verb}:'{of} in a config file, or overrides such as --name value:\n")
            print(describe(config_of(verb, {"task": task})))


def _run(options: argparse.Namespace, rest: list[str], command: str) -> None:
    verb = options.verb
    if verb == "prepare" and options.info:
        from ..ssl.store.describe import describe

        print(describe(options.info))
    elif verb == "prepare" and options.pack:
        from ..ssl.store.pack import pack

        print(pack(*options.pack))
    elif verb in ("quickstart", "run"):
        _run_all(options, rest, command)
    elif verb == "plan":
        _plan(options, rest)
    elif verb == "check":
        _check(options, rest)
    elif verb in (*HUB_VERBS, *USE_VERBS, *LOOK_VERBS, "card"):
        if rest:
            raise EarthSSLError(f"unknown option '{rest[0]}'; see `earthssl {verb} --help`")
        if verb in LOOK_VERBS:
            run_look_verb(options)
            return
        _card(options) if verb == "card" else run_hub_verb(options) if verb in HUB_VERBS else run_use_verb(options)
    else:
        from ..ssl.common.config import override, section
        from .folds import refuse_folds
        from .verbs import config_of, run_verb, run_worth

        settings: dict[str, Any] = section(options.config, verb) if options.config else {}
        if verb == "pretrain":
            settings.pop("seeds", None)  # for `earthssl run`, which pretrains once for each
        if verb == "worth":
            print(run_worth(override(settings, rest), command))
            return
        plain = override(settings, rest, str)
        kind = config_of(verb, plain)  # a probe's follows from its task
        if verb == "prepare" and options.config and "splits" not in plain:
            refuse_folds(options.config)
        path = run_verb(verb, override(settings, rest, kind), command)
        if verb in ("probe", "finetune", "audit", "matrix", "few-shot", "controls"):
            _show_table(path)
        print(path)
        if verb == "controls":
            from .controls import refuse_wrong

            refuse_wrong(path)


def _run_all(options: argparse.Namespace, rest: list[str], command: str) -> None:
    from .run import run_all

    if options.verb == "quickstart" and options.source == "ersst" and options.world != "both":
        raise EarthSSLError(f"expected --source planet with --world {options.world}, got --source ersst")
    if options.verb == "quickstart":
        name = "quickstart-ersst" if options.source == "ersst" else WORLDS.get(options.world, WORLDS["weather"])
        config = resources.files("earthssl.configs") / f"{name}.yaml"
    elif options.config:
        config, name = Path(options.config), Path(options.config).stem
    else:
        raise EarthSSLError("run: expected --config FILE, got none; the folder configs/ has some")
    out = Path(options.out or f"runs/{name}")
    with resources.as_file(config) as file:  # type: ignore[arg-type]
        reports = [run_all(file, str(out), rest, say=print, command=command)]
    if options.verb == "quickstart" and options.source == "planet" and options.world == "both":
        print("\nThe other side: a planet whose fields are linear, where pretraining cannot win")
        with resources.as_file(resources.files("earthssl.configs") / "quickstart-linear-short.yaml") as file:
            reports.append(run_all(file, str(out / "linear"), [], say=print, command=command))
    for report in reports:
        _show_table(report.parent / "probe" if (report.parent / "probe").is_dir() else report.parent)
        print(f"report: {report.resolve()}")


def _plan(options: argparse.Namespace, rest: list[str]) -> None:
    from .plan import plan

    if not options.config:
        raise EarthSSLError("plan: expected --config FILE, got none; the folder configs/ has some")
    how = {"find": options.find, "profile": options.profile, "out": options.out, "as_json": options.json}
    print(plan(options.config, options.store, rest, **how))


def _check(options: argparse.Namespace, rest: list[str]) -> None:
    from ..ssl.common.config import override, section
    from ..ssl.prepare.check import check_source, write_page, written

    settings: dict[str, Any] = section(options.config, "prepare") if options.config else {"source": "files"}
    settings = override(settings, rest)
    own = dict(settings.get("options") or {})
    if options.path:
        own["path"] = options.path if len(options.path) > 1 else options.path[0]
    if not options.config and "path" not in own and settings["source"] == "files":
        raise EarthSSLError("check: expected files, or --config FILE with a section prepare; earthssl check data/*.nc")
    table = check_source(settings["source"], own)
    print(written(table))
    if options.out:
        print(write_page(table, options.out, f"Data quality of {own.get('path', settings['source'])}"))


def _show_table(folder: Path) -> None:
    print("\n" + (folder / "table.txt").read_text(encoding="utf-8").rstrip() + "\n")


def _card(options: argparse.Namespace) -> None:
    if not options.checkpoint:
        raise EarthSSLError("card: expected a checkpoint folder, got none")
    print(model_card(options.checkpoint, options.probe), end="")

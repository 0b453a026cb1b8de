"""``eyespot plan``: what a run will need, before it runs."""

from eyespot.cluster.arguments import parse
from eyespot.cluster.help_text import show_help
from eyespot.cluster.next_steps import say_next
from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.exit_codes import ExitCode

HELP = """usage: eyespot plan RECIPE --gpus 64 [--gpu h100] [--engine ddp|fsdp|deepspeed] [--field value ...]

Memory per GPU and the largest batch, traffic, arithmetic, the time of a step and of the run, and how it scales from 8
to 1,024 GPUs; all of it computed, on any machine, in seconds. The assumptions are printed below the numbers.

  eyespot plan RECIPE --help        every flag: those of eyespot pretrain, --config too, and the plan's own
  --gpu v100|a100|h100|h200|b200|l40s, or --gpu-tflops, --gpu-memory-gb-s and --gpu-memory-gb of your own
  --node-gpus 8 --intra-gb-s 450 --inter-gb-s 50    GPUs per node; bytes per second and direction of each GPU
  --plot FILE.png                   the scaling as a picture
  --json                            everything as JSON instead of tables

  eyespot plan mae_vitl16_in1k --gpus 64
  eyespot plan mae_vitl16_in1k --gpus 64 --engine fsdp --gpu a100 --gpu-memory-gb 40 --plot scaling.png
  eyespot plan my_package.my_file:recipe --gpus 16 --engine deepspeed --deepspeed.stage 2

Exit codes: 0 done, 2 the input is wrong or the run cannot fit, 1 anything else.
"""


def main(argv: list[str]) -> int:
    """Plans, and prints."""
    if not argv or argv[0] in ("-h", "--help"):
        show_help(HELP)
        return ExitCode.DONE if argv else ExitCode.WRONG_INPUT
    # Imported here, because `eyespot plan --help` should not wait for torch.
    import json

    from eyespot.cluster.config_files.request import asked
    from eyespot.cluster.planning.page import print_plan, write_plot
    from eyespot.cluster.planning.planner import Question, answer
    from eyespot.data_pipeline.console import Console

    request = asked(argv, "eyespot plan")
    recipe = request.recipe
    if request.print_config:
        raise UserError("--print-config: is of eyespot pretrain; leave it out")
    with request.blamed():
        question = parse(Question, list(request.flags), request.prog, default=Question(run=request.run))
        question.run = request.settled(question.run, question.epochs)
        with Console(stderr=True).status(f"running {recipe} without memory"):
            plan = answer(question, recipe)
    if question.plot is not None:
        write_plot(plan, question.plot)
    if question.json:
        print(json.dumps(plan.values(), indent=1))
    else:
        print_plan(plan, Console())
        shards = question.run.data.shards or "DIR"
        say_next((["doctor", recipe, "--data.shards", shards, "--run-dir", "RUN"], "what would stop it here?"))
    return ExitCode.DONE

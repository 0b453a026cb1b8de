"""Parts that show images: views, reconstructions, patches as colours, attention, neighbours."""

from collections.abc import Sequence
from contextlib import closing

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import normalize

from eyespot.data_pipeline.errors import UserError
from eyespot.data_pipeline.loading.batch import Batch
from eyespot.data_pipeline.loading.loader import LoaderSpec, make_selection
from eyespot.eval.protocols.knn import nearest
from eyespot.eval.report.attention import class_attention
from eyespot.eval.report.encoder_sections import EncoderPart, Exhibit, Look
from eyespot.eval.report.image_grid import RIGHT, WRONG, Plate, draw_plate, enlarged, heat, visible
from eyespot.eval.report.projections import patch_colors
from eyespot.eval.report.sample_images import images_of
from eyespot.pretrain.checkpoints.folders import complete
from eyespot.pretrain.checkpoints.reader import read_meta, read_module, sizes
from eyespot.pretrain.loop.initial_weights import check_size, fresh_objective, trained_encoder
from eyespot.pretrain.loop.run_data import normalized_views
from eyespot.pretrain.loop.view_sheet import NUM_EPOCHS, num_columns, view_grid
from eyespot.pretrain.losses.self_distillation import patch_similarities
from eyespot.pretrain.networks.encoders import last_tokens
from eyespot.pretrain.objective import Objective
from eyespot.pretrain.objectives.mae import MAE

MASK_RATIOS = (0.75, 0.85, 0.95)
MIN_PLACES = 16
NUM_CHECKPOINTS = 3
NUM_VIEWED, NUM_COLORED, NUM_NEIGHBOURS, NUM_HEADS = 4, 56, 5, 6


def views(look: Look) -> Exhibit:
    """A plate for each of the first samples of the run: the image's middle, then its views in three epochs."""
    grid, spec = view_grid(look.run, look.shards, NUM_VIEWED)
    images = visible(grid, spec)
    num_views = num_columns(spec)
    if num_views == 1:
        heads = ["image", *(f"epoch {epoch}" for epoch in range(1, NUM_EPOCHS + 1))]
        plates = [
            draw_plate([list(row)], heads=heads, alt=f"An image and {len(row) - 1} views of it") for row in images
        ]
        return Exhibit(plates=plates, min_width=400)
    plates = []
    for row in images:
        epochs = [list(views) for views in row[1:].split(num_views)]
        rows = [[row[0] if number == 0 else None, *views] for number, views in enumerate(epochs)]
        heads = ["image", *(f"view {view}" for view in range(1, num_views + 1))]
        alt = f"An image and {num_views} views of it in each of {NUM_EPOCHS} epochs, one epoch below the other"
        plates.append(draw_plate(rows, heads=heads if num_views <= 3 else [], alt=alt))
    return Exhibit(plates=plates, min_width=150 if num_views <= 3 else 400)


def task(look: Look) -> Exhibit:
    """What the method is given of each image, and what it makes of it."""
    objective = whole_objective(look)
    if isinstance(objective, MAE):
        return _reconstructions(look, objective)
    heads = objective.picture_rows
    plates = [
        draw_plate([list(images)], heads=heads, alt=", ".join(heads)) for images in task_pictures(look, objective)
    ]
    return Exhibit(plates=plates, min_width=100 * len(heads))


def task_pictures(look: Look, objective: Objective) -> Float[Tensor, "n rows 3 h w"]:
    """The objective's picture of the pictured specimens, values 0..1; rows as ``picture_rows`` says.

    Raises:
        UserError: it has no picture but its views.
    """
    few = look.specimens.pictured
    views = normalized_views(objective.views(), look.run.data, look.shards.manifest)
    loader = LoaderSpec(shards=few.shards, views=views, batch_size=len(few.ids), device=str(look.device))
    with closing(make_selection(loader, few.ids)) as batches:
        batch = next(batches)
    with torch.no_grad():
        grid = objective.picture(batch)
    if grid is None or not objective.picture_rows:
        raise UserError("the method compares augmented views, and there is nothing else to see")
    return visible(grid, views).transpose(0, 1)


def _reconstructions(look: Look, objective: MAE) -> Exhibit:
    """What the decoder makes of the patches that stay visible at three mask ratios."""
    few = look.specimens.pictured
    ids = torch.from_numpy(few.ids.copy())
    batch = Batch(views=[look.images], ids=ids, epochs=torch.zeros_like(ids), labels=ids.to(look.device), seed=0)
    shown: list[Float[Tensor, "2 n 3 h w"]] = []
    for ratio in MASK_RATIOS:
        objective.num_visible = max(1, int(objective.num_patches * (1 - ratio)))
        shown.append(visible(objective.picture(batch)[1:], look.subject.views))
    originals = visible(look.images, look.subject.views)
    heads = ["image", *(f"{ratio:.0%} masked" for ratio in MASK_RATIOS)]
    plates = [
        draw_plate(
            [[originals[n], *(pair[0, n] for pair in shown)], [None, *(pair[1, n] for pair in shown)]],
            heads=heads,
            caption=name,
            alt=f"{name}: what {_percents(MASK_RATIOS)} masking leaves of the image, and what the decoder makes of it",
        )
        for n, name in enumerate(look.names)
    ]
    told = "Top: what the encoder sees. Bottom: the masked patches as the decoder fills them in, beside those that it"
    told += f" saw. The masks lie inside each other. It was trained with {objective.config.mask_ratio:.0%} masked."
    return Exhibit(plates=plates, min_width=400, about=told)


def colors(look: Look) -> Exhibit:
    """Patch features as colours, beside the image."""
    mapped = look.specimens.mapped
    more = mapped.at(np.arange(min(NUM_COLORED, len(mapped.ids))))
    images = torch.cat([look.images, images_of(more, look.subject.views, look.device)])
    with torch.inference_mode():
        patches = last_tokens(look.subject.encoder, images)[-1].patches
        if patches[0, 0].numel() < MIN_PLACES:  # of a convolutional encoder the last stage that has more
            maps = [tokens.patches for tokens in last_tokens(look.subject.encoder, images, 4)]
            patches = next((found for found in maps[::-1] if found[0, 0].numel() >= MIN_PLACES), maps[0])
    found, share = patch_colors(patches.clone())
    height, width = look.images.shape[2:]
    plates = [
        draw_plate(
            [[image, enlarged(color, height, width)]],
            caption=name,
            alt=f"{name}: the image, and its patches coloured by their features",
        )
        for image, color, name in zip(visible(look.images, look.subject.views), found.cpu(), look.names, strict=False)
    ]
    said = f"{patches.shape[2]} × {patches.shape[3]} places; the three colours hold {share:.0%} of the variance over"
    said += f" {len(images)} images, after what each place has in common over them was taken off."
    return Exhibit(plates=plates, min_width=150, about=said)


def similarity(look: Look) -> Exhibit:
    """Cosines of the middle patch with all others: by the Gram teacher, where there is one, and kept checkpoints."""
    height, width = look.images.shape[2:]
    found = {name: last_tokens(encoder, look.images)[-1].patches for name, encoder in _encoders_of(look).items()}
    grids = {name: (int(maps.shape[2]), int(maps.shape[3])) for name, maps in found.items()}
    rows, columns = next(iter(grids.values()))
    if rows * columns < MIN_PLACES:
        raise UserError(f"the last features have {rows} × {columns} places, too few to compare with each other")
    cosines = {name: patch_similarities(maps.flatten(2).transpose(1, 2)).cpu() for name, maps in found.items()}
    place = rows // 2 * columns + columns // 2
    plates = []
    for n, (image, name) in enumerate(zip(visible(look.images, look.subject.views), look.names, strict=True)):
        maps = torch.cat([each[n, place].view(rows, columns) for each in cosines.values()], 1)
        tiles = [enlarged(part, height, width) for part in heat(maps).split(columns, 2)]  # one scale for all of them
        tiles = [_marked(image.cpu(), place, rows, columns), *tiles]
        alt = f"{name}: the image with one patch marked, and how similar each patch is to it by {', '.join(cosines)}"
        plates.append(draw_plate([tiles], heads=["image", *cosines], caption=name, alt=alt))
    first, *others = cosines.items()
    drifts = [f"{(each - first[1]).square().mean().sqrt():.3f} at {name}" for name, each in others]
    about = f"{rows} × {columns} patches; the maps of a row share one scale."
    if drifts:
        about += f" Root mean square change of all cosines from {first[0]}: {', '.join(drifts)}."
    return Exhibit(plates=plates, min_width=100 * (1 + len(cosines)), about=about)


def _encoders_of(look: Look) -> dict[str, nn.Module]:
    """By name the Gram teacher, where the method has one, and a few kept checkpoints, the oldest first."""
    folders = complete(look.story.run_dir)
    chosen = sorted({round(place) for place in np.linspace(0, len(folders) - 1, min(NUM_CHECKPOINTS, len(folders)))})
    found: dict[str, nn.Module] = {}
    teacher = getattr(whole_objective(look), "gram_teacher", None)
    if isinstance(teacher, nn.Module):
        found["Gram teacher"] = teacher
    for folder in (folders[place] for place in chosen):
        encoder = trained_encoder(look.run, folder).eval().requires_grad_(False)
        found[f"step {int(folder.name.rpartition('-')[2])}"] = encoder.to(look.device)
    return found


def _marked(image: Float[Tensor, "3 h w"], place: int, rows: int, columns: int) -> Float[Tensor, "3 h w"]:
    """The image with a frame around one of its patches."""
    height, width = image.shape[1] // rows, image.shape[2] // columns
    top, left = place // columns * height, place % columns * width
    marked, line = image.clone(), max(1, height // 8)
    inner = image[:, top + line : top + height - line, left + line : left + width - line]
    marked[:, top : top + height, left : left + width] = torch.tensor(RIGHT)[:, None, None] / 255
    marked[:, top + line : top + height - line, left + line : left + width - line] = inner
    return marked


def attention(look: Look) -> Exhibit:
    """Attention of the class token: mean of the heads, then some of them."""
    maps = class_attention(look.subject.encoder, look.images).cpu()
    height, width = look.images.shape[2:]
    num_heads = min(NUM_HEADS, maps.shape[1]) if maps.shape[1] > 1 else 0
    columns = 2 + num_heads
    heads = ["image", "mean", *(f"head {head}" for head in range(1, num_heads + 1))]
    per_row = 4 if columns > 5 else columns
    plates = []
    for image, found, name in zip(visible(look.images, look.subject.views), maps, look.names, strict=True):
        tiles = [image.cpu(), *(enlarged(heat(each), height, width) for each in (found.mean(0), *found[:num_heads]))]
        rows: list[list[Tensor | None]] = [list(tiles[at : at + per_row]) for at in range(0, columns, per_row)]
        alt = f"{name}: the image, where the class token looks on average, and where {num_heads} of the heads look"
        plates.append(draw_plate(rows, heads=heads if len(rows) == 1 else [], caption=name, alt=alt))
    about = "" if columns == per_row else f"In reading order: {', '.join(heads)}. "
    about += f"{maps.shape[1]} heads, {maps.shape[2]} × {maps.shape[3]} patches; each map from its least to its largest"
    return Exhibit(plates=plates, min_width=400 if columns > 2 else 150, about=f"{about} value.")


def neighbours(look: Look) -> Exhibit:
    """Test images and the training images whose features are most like theirs."""
    few, bank = look.specimens.pictured, look.specimens.bank
    places = {sample: place for place, sample in enumerate(look.specimens.mapped.ids.tolist())}
    rows = torch.tensor([places[sample] for sample in few.ids.tolist()])
    queries, others = normalize(look.mapped()[rows], dim=1), normalize(look.bank(), dim=1)
    if len(others) < NUM_NEIGHBOURS:
        raise UserError(f"{len(others)} other images are too few to look for neighbours among")
    cosines, found = nearest(queries, others, NUM_NEIGHBOURS)
    images = images_of(bank.at(found.flatten().numpy()), look.subject.views, look.device)
    shown = visible(images, look.subject.views).unflatten(0, found.shape)
    asking = visible(look.images, look.subject.views)
    plates = [_neighbours_plate(look, n, asking[n], shown[n], found[n], cosines[n]) for n in range(len(rows))]
    return Exhibit(plates=plates, min_width=400)


def _neighbours_plate(look: Look, n: int, query: Tensor, images: Tensor, rows: Tensor, cosines: Tensor) -> Plate:
    specimens = look.specimens
    label = int(specimens.pictured.labels[n])
    others = specimens.bank.labels[rows.numpy()].tolist()
    frames = {(0, k): RIGHT if other == label else WRONG for k, other in enumerate(others, 1)} if label >= 0 else {}
    if label >= 0:
        said = f"{look.names[n]} → {', '.join(specimens.classes[other] for other in others)}"
    else:
        said = f"{look.names[n]} → cosine {', '.join(f'{cosine:.2f}' for cosine in cosines.tolist())}"
    return draw_plate(
        [[query, *images]], frames=frames, caption=said, alt=f"An image and its nearest neighbours: {said}"
    )


def whole_objective(look: Look) -> Objective:
    """The whole method with the checkpoint's weights."""
    trained = read_module(look.checkpoint)
    check_size(look.run, look.checkpoint)
    num_samples = read_meta(look.checkpoint).loader.get("num_samples", 0)
    most = max(sizes(look.checkpoint).values())  # what keeps something of each sample has a tensor of so many numbers
    with torch.random.fork_rng(devices=[]):
        objective = fresh_objective(look.run, torch.arange(min(num_samples, most)))
    try:
        objective.load_state_dict(trained)
    except RuntimeError as error:
        raise UserError(f"checkpoint {look.checkpoint}: {str(error).splitlines()[-1].strip()}") from error
    return objective.eval().requires_grad_(False).to(look.device)


def _percents(ratios: Sequence[float]) -> str:
    return ", ".join(f"{ratio:.0%}" for ratio in ratios)


PARTS = (
    EncoderPart(
        title="Augmented views",
        about="What the method is shown: images, and what the recipe makes of them in the first three epochs.",
        make=views,
    ),
    EncoderPart(
        title="The task",
        about="What the method is given of images of the test split, what it makes of it, and what would be right.",
        make=task,
    ),
    EncoderPart(
        title="Patch features",
        about="The first three principal components of the patch features as red, green and blue. The same colour means"
        " alike to the encoder, across images too.",
        make=colors,
    ),
    EncoderPart(
        title="Patch similarity",
        about="How similar each patch is to the marked one: dark = least, bright = most. Maps that lose the outline of"
        " the thing while training goes on are what Gram anchoring (DINOv3) is against.",
        make=similarity,
    ),
    EncoderPart(
        title="Attention",
        about="Where the class token looks in the last block: dark = hardly, bright = most.",
        make=attention,
    ),
    EncoderPart(
        title="Nearest neighbours",
        about="Left: a test image. Then the training images whose features are most like its own; a teal frame means"
        " the same class, an orange one another.",
        make=neighbours,
    ),
)

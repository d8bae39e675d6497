"""Train the demonstration model on drawn pictures and their captions, in both languages.

    python -m examples.demo.train examples/demo/model/demo.pt

Deterministic on one machine: fixed seeds, deterministic algorithms. The defaults take
minutes on a GPU; --pictures, --epochs and --batch make a try of a CPU's minutes.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from clipfleet.architectures import load_architecture
from clipfleet.convert.checkpoints.load import save_checkpoint
from clipfleet.convert.model.chinese_clip import ChineseClip
from clipfleet.workers.images.preprocess import MEAN, STD
from clipfleet.workers.text.tokenizer import Tokenizer
from examples.demo.scenes import Picture, jpeg, pictures

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # for deterministic products

SEED = 1
HELD_OUT_PICTURES = 1000
WEIGHT_DECAY = 0.05
WARMUP_STEPS = 200
MAX_LOGIT_SCALE = math.log(100.0)  # the original's
GRADIENT_NORM = 1.0
WORD_WEIGHT = 0.02  # BERT's initial standard deviation

Data = tuple[Tensor, Tensor, Tensor]  # uint8 (n, S, S, 3); int64 (n, L) Chinese and English


def main() -> None:
    arguments = parse_arguments()
    torch.manual_seed(SEED)
    torch.use_deterministic_algorithms(True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    architecture = load_architecture("demo")
    started_s = time.monotonic()
    data = make_data("train", arguments.pictures, arguments, device)
    held_out = make_data("held-out", HELD_OUT_PICTURES, arguments, device)
    say(f"{arguments.pictures} pictures drawn, {time.monotonic() - started_s:.0f} s")
    model = ChineseClip(architecture)
    coarsen_words(model)
    model.to(device)
    train(model, data, held_out, arguments)
    arguments.checkpoint.parent.mkdir(parents=True, exist_ok=True)
    save_checkpoint(model.cpu(), arguments.checkpoint, half=True)
    size_bytes = arguments.checkpoint.stat().st_size
    say(f"{arguments.checkpoint}: {size_bytes} bytes, {time.monotonic() - started_s:.0f} s in all")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the demonstration model.")
    parser.add_argument("checkpoint", type=Path, help="the .pt file to write")
    parser.add_argument("--pictures", type=int, default=200_000, help="default: %(default)s")
    parser.add_argument("--epochs", type=int, default=30, help="default: %(default)s")
    parser.add_argument("--batch", type=int, default=2048, help="default: %(default)s")
    parser.add_argument("--learning-rate", type=float, default=1e-3, help="default: %(default)s")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    return parser.parse_args()


def make_data(split: str, count: int, arguments: argparse.Namespace, device: torch.device) -> Data:
    """Draw pictures of one split; they take the same way as at inference, JPEG included."""
    architecture = load_architecture("demo")
    chosen = pictures(count=count, seed=SEED, split=split)
    pixels = np.empty((count, architecture.resolution, architecture.resolution, 3), np.uint8)
    with ProcessPoolExecutor(arguments.processes) as pool:
        for row, image in zip(pixels, pool.map(resized, chosen, chunksize=256), strict=True):
            row[:] = image
    tokenizer = Tokenizer()
    chinese, english = (
        tokenizer.encode(texts, architecture.context_length)
        for texts in ([p.chinese for p in chosen], [p.english for p in chosen])
    )
    return tuple(torch.from_numpy(a).to(device) for a in (pixels, chinese, english))  # type: ignore[return-value]


def resized(picture: Picture) -> NDArray[np.uint8]:
    """Return a picture's pixels as the workers have them before normalisation."""
    side = load_architecture("demo").resolution
    with Image.open(io.BytesIO(jpeg(picture))) as image:
        return np.asarray(image.resize((side, side), Image.Resampling.BICUBIC).convert("RGB"))


def normalised(pixels: Tensor) -> Tensor:
    """Return float32 (n, 3, S, S) of uint8 (n, S, S, 3)."""
    mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (MEAN, STD))
    return (pixels.permute(0, 3, 1, 2).float().div(255) - mean) / std


def coarsen_words(model: ChineseClip) -> None:
    """Make every initial weight of the vocabulary plus or minus one number.

    Most words are in no caption and keep these weights: the checkpoint, more than half of
    which is vocabulary, then compresses to a fraction in the repository's history, and yet
    texts of unknown words have vectors of their own.
    """
    words = model.bert.embeddings.word_embeddings.weight
    with torch.no_grad():
        words.copy_(torch.where(words < 0, -WORD_WEIGHT, WORD_WEIGHT))


def train(model: ChineseClip, data: Data, held_out: Data, arguments: argparse.Namespace) -> None:
    count = len(data[0])
    batches = count // arguments.batch
    steps = arguments.epochs * batches
    optimiser = torch.optim.AdamW(parameter_groups(model), lr=arguments.learning_rate)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda n: rate_at(n, steps))
    order = torch.Generator().manual_seed(SEED)
    for epoch in range(arguments.epochs):
        model.train()
        losses = []
        rows = torch.randperm(count, generator=order)[: batches * arguments.batch]
        for batch in rows.view(batches, arguments.batch).to(data[0].device):
            loss = contrastive_loss(model, *(part[batch] for part in data))
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(model.parameters(), GRADIENT_NORM)
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
            losses.append(loss.detach())
        first, second = (recall_at_1(model, held_out, language) for language in (1, 2))
        mean = torch.stack(losses).mean().item()
        say(f"epoch {epoch + 1}: loss {mean:.4f}, R@1 Chinese {first:.1f} % English {second:.1f} %")


def parameter_groups(model: ChineseClip) -> list[dict[str, object]]:
    """Return the parameters with their weight decay: none for embeddings, norms and biases."""
    decayed: list[Tensor] = []
    others: list[Tensor] = []
    for name, parameter in model.named_parameters():
        is_matrix = parameter.ndim >= 2 and "embedding" not in name
        (decayed if is_matrix else others).append(parameter)
    return [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": others, "weight_decay": 0.0},
    ]


def rate_at(step: int, steps: int) -> float:
    """Return the share of the learning rate: a linear warm-up, then half a cosine to zero."""
    warmup = min(WARMUP_STEPS, steps // 10 + 1)
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(steps - warmup, 1)))


def contrastive_loss(
    model: ChineseClip, pixels: Tensor, chinese: Tensor, english: Tensor
) -> Tensor:
    """CLIP's symmetric loss (arXiv:2103.00020, figure 3), the mean over both languages."""
    on_gpu = pixels.device.type == "cuda"  # bfloat16 is slower on a CPU
    with torch.autocast(pixels.device.type, torch.bfloat16, enabled=on_gpu):
        images = model.encode_image(normalised(pixels))
        texts = model.encode_text(torch.cat([chinese, english]))
    images, texts = (functional.normalize(v.float(), dim=1) for v in (images, texts))
    gold = torch.arange(len(images), device=images.device)
    losses = []
    for half in texts.chunk(2):
        logits = model.logit_scale.exp() * images @ half.T
        losses += [functional.cross_entropy(rows, gold) for rows in (logits, logits.T)]
    return torch.stack(losses).mean()


@torch.no_grad()
def recall_at_1(model: ChineseClip, held_out: Data, language: int) -> float:
    """Return how many of the texts (1: Chinese, 2: English) find their picture first, in %."""
    model.eval()
    images = torch.cat([model.encode_image(normalised(p)) for p in torch.split(held_out[0], 250)])
    texts = torch.cat([model.encode_text(t) for t in torch.split(held_out[language], 250)])
    best = (functional.normalize(texts, dim=1) @ functional.normalize(images, dim=1).T).argmax(1)
    return 100 * (best == torch.arange(len(best), device=best.device)).float().mean().item()


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()

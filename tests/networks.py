"""Small float64 networks, one for every kind of layer, and what hooks are expected to cover of each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Recurrent(nn.Module):
    def __init__(self, kind: type[nn.RNNBase]) -> None:
        super().__init__()
        self.cell = kind(3, 4, batch_first=True)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.cell(x)[0][:, -1])


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 4)
        self.two = nn.Linear(4, 4)
        self.two.weight = self.one.weight
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.two(torch.tanh(self.one(x)))))


class Borrowed(nn.Module):
    """A weight that its layer and a plain function share, which no look at the modules tells."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(nn.functional.linear(torch.tanh(self.layer(x)), self.layer.weight.T))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


class DataDependent(nn.Module):
    """Python control flow on values, which vmap cannot trace and a batch would decide together."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 3)
        self.two = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.one(x) if float(x.sum()) > 0 else self.two(x)


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.embed = nn.Linear(3, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.out(self.attention(x, x, x, need_weights=False)[0].mean(1))


class Words(nn.Module):
    """Token ids, the padding left out of the mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 4, padding_idx=0)
        self.out = nn.Linear(4, 3)

    def forward(self, ids: Tensor) -> Tensor:
        mask = (ids != 0).to(self.embed.weight.dtype)[..., None]
        return self.out((self.embed(ids) * mask).sum(1) / mask.sum(1).clamp(min=1))


class PositionsFirst(nn.Module):
    """Its inner layer sees [position, example, feature]: the rows are not those of the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(3, 4)
        self.out = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.inner(x.transpose(0, 1))).mean(0))


class Folded(nn.Module):
    """Its inner layers see positions folded into the batch: [example·position, ...]."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(16, 6)
        self.conv = nn.Conv1d(1, 2, 3)
        self.out = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:  # [example, 2, 4, 4]
        folded = torch.tanh(self.inner(x.flatten(0, 1).flatten(1)))
        folded = self.conv(folded[:, None])  # [example·2, 2, 4]
        return self.out(folded.reshape(len(x), 2, 8).mean(1))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used = nn.Linear(4, 3)
        self.idle = nn.Linear(4, 3)
        self.wasted = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        self.wasted(x)
        return self.used(x)


class InPlace(nn.Module):
    """What a layer gave is overwritten before the next one sees it."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(4, 5)
        self.two = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.relu_(self.one(x)))


class Scaled(nn.Linear):
    """A Linear in name only."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def batch_norm() -> nn.Module:
    model = nn.Sequential(
        nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(27, 3)
    ).double()
    model(torch.randn(8, 2, 4, 4, dtype=torch.float64))  # gives the running statistics values
    return model


@dataclass(frozen=True)
class Case:
    """A network, the shape of its input (five examples), what hooks cover and how the rest is done."""

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    covered: tuple[str, ...]
    way: str = "hooks"

    def model(self) -> nn.Module:
        torch.manual_seed(0)
        return self.make().double().eval()

    def inputs(self, count: int = 5) -> Tensor:
        generator = torch.Generator().manual_seed(1)
        shape = (count, *self.shape[1:])
        if self.shape is TOKENS:
            return torch.randint(0, 9, shape, generator=generator)
        return torch.randn(shape, generator=generator, dtype=torch.float64)


VECTOR, PICTURE, SERIES, VOLUME, TOKENS = (5, 4), (5, 2, 4, 4), (5, 6, 3), (5, 1, 3, 4, 3), (5, 7)


def head(*layers: nn.Module, into: int) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers, nn.Flatten(), nn.Linear(into, 3))


NETWORKS: dict[str, Case] = {
    "linear": Case(lambda: nn.Linear(4, 3), VECTOR, ("",)),
    "mlp": Case(lambda: nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), VECTOR, ("0", "2")),
    "no bias": Case(lambda: nn.Linear(4, 3, bias=False), VECTOR, ("",)),
    "linear over positions": Case(
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Flatten(), nn.Linear(24, 3)), SERIES, ("0", "3")
    ),
    "conv2d": Case(
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3, padding=1, stride=2), nn.Flatten(), nn.Linear(16, 3)),
        PICTURE,
        ("0", "2"),
    ),
    "conv2d, kernel and padding of two sizes": Case(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, (1, 3), padding=(2, 1), bias=False), nn.Flatten(), nn.Linear(96, 3)
        ),
        PICTURE,
        ("0", "2"),
    ),
    "conv2d, same": Case(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 2, padding="same", dilation=2), nn.Tanh(), nn.Flatten(), nn.Linear(48, 3)
        ),
        PICTURE,
        ("0", "3"),
    ),
    "conv2d, circular": Case(
        lambda: nn.Sequential(
            nn.Conv2d(2, 3, 3, padding=(1, 2), padding_mode="circular"), nn.Flatten(), nn.Linear(72, 3)
        ),
        PICTURE,
        ("0", "2"),
    ),
    "conv2d at one position": Case(
        lambda: nn.Sequential(
            nn.Conv2d(2, 5, 4),
            nn.Tanh(),
            nn.Conv2d(5, 4, 3, padding=1),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(4, 3),
        ),
        PICTURE,
        ("0", "2", "5"),
    ),
    "grouped conv": Case(
        lambda: nn.Sequential(nn.Conv2d(2, 4, 2, groups=2), nn.Flatten(), nn.Linear(36, 3)),
        PICTURE,
        ("0", "2"),
    ),
    "conv1d": Case(
        lambda: nn.Sequential(nn.Conv1d(6, 4, 2, dilation=2), nn.Flatten(), nn.Linear(4, 3)),
        SERIES,
        ("0", "2"),
    ),
    "conv3d": Case(
        lambda: nn.Sequential(
            nn.Conv3d(1, 2, (2, 3, 2), stride=(1, 2, 1), padding=(0, 1, 0)), nn.Flatten(), nn.Linear(16, 3)
        ),
        VOLUME,
        ("0", "2"),
    ),
    "transposed conv": Case(
        lambda: nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(75, 3)),
        PICTURE,
        ("3",),
        "vmap",
    ),
    "embedding": Case(Words, TOKENS, ("out",), "vmap"),
    "layer norm": Case(
        lambda: nn.Sequential(nn.Linear(4, 5), nn.LayerNorm(5), nn.Linear(5, 3)), VECTOR, ("0", "2"), "vmap"
    ),
    "group norm": Case(
        lambda: nn.Sequential(nn.Conv2d(2, 4, 2), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(36, 3)),
        PICTURE,
        ("0", "3"),
        "vmap",
    ),
    "batch norm": Case(batch_norm, PICTURE, ("0", "4"), "vmap"),
    "dropout": Case(
        lambda: nn.Sequential(nn.Linear(4, 5), nn.Dropout(0.5), nn.Linear(5, 3)), VECTOR, ("0", "2")
    ),
    "lstm": Case(lambda: Recurrent(nn.LSTM), SERIES, ("out",), "loop"),  # vmap takes its float32 kernel only
    "gru": Case(lambda: Recurrent(nn.GRU), SERIES, ("out",), "loop"),
    "rnn": Case(lambda: Recurrent(nn.RNN), SERIES, ("out",), "loop"),
    "tied weights": Case(Tied, VECTOR, ("out",), "vmap"),
    "borrowed weight": Case(Borrowed, VECTOR, ("out",), "vmap"),
    "layer used twice": Case(Twice, VECTOR, ("layer", "out")),
    "weight norm": Case(
        lambda: nn.Sequential(
            nn.utils.parametrizations.weight_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)
        ),
        VECTOR,
        ("2",),
        "vmap",
    ),
    "spectral norm": Case(
        lambda: nn.Sequential(
            nn.utils.parametrizations.spectral_norm(nn.Linear(4, 5)), nn.Tanh(), nn.Linear(5, 3)
        ),
        VECTOR,
        ("2",),
        "vmap",
    ),
    "attention": Case(Attention, SERIES, ("embed", "out"), "vmap"),
    "transformer": Case(
        lambda: nn.Sequential(
            nn.Linear(3, 4),
            nn.TransformerEncoderLayer(4, 2, 8, batch_first=True),
            nn.Flatten(),
            nn.Linear(24, 3),
        ),
        SERIES,
        ("0", "1.linear1", "1.linear2", "3"),
        "vmap",
    ),
    "positions first": Case(PositionsFirst, SERIES, ("out",), "vmap"),
    "positions in the batch": Case(Folded, PICTURE, ("inner", "conv", "out")),
    "unused layers": Case(Unused, VECTOR, ("used", "idle", "wasted")),
    "in place": Case(InPlace, VECTOR, ("one", "two")),
    "a Linear in name only": Case(
        lambda: nn.Sequential(Scaled(4, 5), nn.Tanh(), nn.Linear(5, 3)), VECTOR, ("2",), "vmap"
    ),
    "data-dependent": Case(DataDependent, VECTOR, (), "loop"),
}

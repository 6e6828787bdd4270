"""The window of a convolution: which inputs an output is made of, alike along rows and columns."""

from dataclasses import dataclass

# Of a name such as 3x3s2, 3x3s1d2 or 3x3s2p0x1; `Window.parse` reads it.
PATTERN = (
    r"(?P<size>[1-9]\d?)x(?P=size)s(?P<stride>[1-9]\d?)"
    r"(d(?P<dilation>[1-9]\d?))?(p(?P<before>\d\d?)x(?P<after>\d\d?))?"
)


@dataclass(frozen=True)
class Window:
    """Taps along each axis and the zeros around the image; TensorFlow's SAME has them unequal."""

    size: int
    stride: int = 1
    dilation: int = 1
    before: int = 0  # zeros above and left of the image
    after: int = 0  # zeros below and right of it

    @classmethod
    def centred(cls, size: int, stride: int = 1, dilation: int = 1) -> "Window":
        """With so many zeros that the middle tap of the first output is the first input."""
        edge = dilation * (size // 2)
        return cls(size, stride, dilation, edge, edge)

    @classmethod
    def parse(cls, groups: dict[str, str | None]) -> "Window":
        """The inverse of `name`, from what `PATTERN` matched."""
        sizes = (int(groups[key] or 1) for key in ("size", "stride", "dilation"))
        window = cls.centred(*sizes)
        if groups["before"] is None:
            return window
        padding = int(groups["before"] or 0), int(groups["after"] or 0)
        return cls(window.size, window.stride, window.dilation, *padding)

    @property
    def reach(self) -> int:
        """Neighbouring inputs that one output spans."""
        return (self.size - 1) * self.dilation + 1

    def outputs(self, extent: int) -> int:
        """Outputs along an axis of `extent` inputs; less than 1 if the window does not fit."""
        return (extent + self.before + self.after - self.reach) // self.stride + 1

    @property
    def name(self) -> str:
        """`3x3s2`; dilation and padding follow only where they are not 1 and centred."""
        text = f"{self.size}x{self.size}s{self.stride}"
        if self.dilation != 1:
            text += f"d{self.dilation}"
        if self != Window.centred(self.size, self.stride, self.dilation):
            text += f"p{self.before}x{self.after}"
        return text

    def __str__(self) -> str:
        return (
            f"{self.size}x{self.size}, stride {self.stride}, dilation {self.dilation}, padding "
            f"{self.before} before and {self.after} after"
        )

"""What one call of the whole network does: a forward over tokens, and the encoding of a page's views."""

from attrs import evolve, frozen

from dsocr_nvtx.analytic.layer import Child, Layer, total
from dsocr_nvtx.analytic.model import DeepseekOCRModel, VisionTower
from dsocr_nvtx.schema.records import CallShape, Cost


@frozen(kw_only=True)
class TextForward(Layer):
    """A forward over tokens that computes ``logits`` rows of each sequence."""

    model: DeepseekOCRModel
    logits: int

    def children(self, shape: CallShape) -> tuple[Child, ...]:
        """Return the calls from token embedding to head."""
        return self.model.children(self._shape(shape))

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:
        """Return the model's own work."""
        return self.model.own(self._shape(shape), hit)

    def io_bytes(self, shape: CallShape) -> int:
        """Return the token numbers and the logits."""
        return self.model.io_bytes(self._shape(shape))

    def _shape(self, shape: CallShape) -> CallShape:
        return evolve(shape, logits=self.logits * shape.batch)


@frozen(kw_only=True)
class VisionViews(Layer):
    """The encoding of several batches of images, each with its own size, one after the other.

    Costs follow from ``views`` alone; the shape that `cost` and `own` are given says only the element type.
    """

    tower: VisionTower
    views: tuple[CallShape, ...]

    def children(self, shape: CallShape) -> tuple[Child, ...]:  # noqa: ARG002 - the views are the shapes
        """Return SAM, CLIP and projector of every view."""
        return tuple(child for view in self.views for child in self.tower.children(view))

    def own(self, shape: CallShape, hit: int | None = None) -> Cost:  # noqa: ARG002 - the views are the shapes
        """Return the work between the parts of every view."""
        return total(self.tower.own(view) for view in self.views)

    def io_bytes(self, shape: CallShape) -> int:  # noqa: ARG002 - the views are the shapes
        """Return the pixels and the tokens they become."""
        return sum(self.tower.io_bytes(view) for view in self.views)

    def tokens(self) -> int:
        """Return how many rows the projector makes of all views."""
        return sum(child.shape.rows for view in self.views for child in self.tower.children(view)[2:])

"""From an assignment to positives and negatives.  Nothing is sampled: every prior is used."""

from minirtmdet.structures import AssignResult, GroundTruth, SamplingResult


class PseudoSampler:
    """Splits an assignment into positives and negatives (MMDetection: ``PseudoSampler``).

    Two-stage detectors draw a few hundred proposals here; a dense detector keeps all of them, and the step
    survives in the pipeline only as this split.
    """

    def sample(self, assign_result: AssignResult, ground_truth: GroundTruth) -> SamplingResult:
        """Masks of positives and negatives, and the box of each positive."""
        pos_mask = assign_result.gt_inds > 0  # [B,N]
        owner = (assign_result.gt_inds - 1).clamp(min=0)  # [B,N]
        boxes = ground_truth.with_rows().boxes.gather(1, owner[..., None].expand(-1, -1, 4))  # [B,N,4]
        return SamplingResult(
            pos_mask=pos_mask,
            neg_mask=assign_result.gt_inds == 0,
            gt_bboxes=boxes * pos_mask[..., None],
        )

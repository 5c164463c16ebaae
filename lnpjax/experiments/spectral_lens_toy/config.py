"""The sizes of the Spectral Lens toy (section 5; F.3)."""

from __future__ import annotations

import dataclasses

from lnpjax._base.checks import require
from lnpjax.data.modular import ModularTask
from lnpjax.experiments.spectral_lens.rates import rate_candidates
from lnpjax.models.modular import ModularTransformerConfig

STAGES = ("baseline", "rope", "muon", "untied")
SWEPT_STAGES = ("muon", "untied")
SPECTRUM_SEED = 1_000_003  # sequences of the covariance: neither trained on nor validated


@dataclasses.dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """One size of the experiment.

    Attributes:
        task: the sequences.
        hidden_size: width of the network.
        num_layers: its blocks.
        embedding_std: of the initial embedding.
        num_train: training sequences.
        num_validation: validation sequences.
        num_spectrum: sequences that spectra are taken over.
        batch_sizes: of the sweep, for the stages that the paper sweeps, Muon and Untied.
        compared_batch_sizes: those of them at which stages are compared: Baseline and RoPE are
            trained at these alone.
        seeds: of networks and batches; one run each.
        tokens_per_block: between two evaluations of the validation loss.
        num_blocks: length of a run.
        base_learning_rate: Adam's, at the smallest batch size b0.
        multipliers: of the two centres, ``sqrt(b / b0)`` and ``b / b0`` times the base rate.
        rungs: blocks after which the better half of the candidates is kept.
        target_loss: validation loss, in nats, that tokens are counted to.
        easier_targets: others, descending; runs are compared at the lowest that all meet.
        checkpoints: blocks after which spectra and probes are taken.
        window: ranks of the tail exponent.
        tracked_bands: (cycle, offset) of the bands probed at every checkpoint.
        bands: those probed at the end.
        least_occurrences: training sequences on a band without which it decides nothing.
        control_embedding_std: initial embedding of a control: Muon and Untied once more, at the
            middle batch size and the rates that were found for it.

    Raises:
        ValueError: on construction, naming the field that cannot be.
    """

    task: ModularTask = dataclasses.field(default_factory=ModularTask)
    hidden_size: int = 128
    num_layers: int = 2
    embedding_std: float = 1.0
    num_train: int = 32_000
    num_validation: int = 2048
    num_spectrum: int = 1024
    batch_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    compared_batch_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    seeds: tuple[int, ...] = (0, 1, 2)
    tokens_per_block: int = 512 * 64
    num_blocks: int = 1000
    base_learning_rate: float = 6e-4
    multipliers: tuple[float, ...] = (0.5, 0.7071, 1.0, 1.4142, 2.0)
    rungs: tuple[int, ...] = (125, 500)
    target_loss: float = 2.0
    easier_targets: tuple[float, ...] = ()
    checkpoints: tuple[int, ...] = (
        *(0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 80, 100, 120, 150, 175, 200, 250, 300, 350),
        *(400, 500, 600, 700, 800, 900, 1000),
    )
    window: tuple[int, int] = (10, 40)
    tracked_bands: tuple[Band, ...] = ((97, 200), (179, 50))
    bands: tuple[Band, ...] = (
        *((31, 0), (53, 400), (79, 20), (97, 200)),
        *((131, 600), (179, 50), (251, 300), (367, 10)),
    )
    least_occurrences: int = 50
    control_embedding_std: float = 0.02

    def __post_init__(self) -> None:
        for batch_size in self.batch_sizes:
            tokens = batch_size * self.task.context_length
            require(
                self.tokens_per_block % tokens == 0,
                "tokens_per_block",
                expected=f"a multiple of the {tokens} tokens of a step of {batch_size} sequences",
                got=self.tokens_per_block,
            )
        require(
            self.checkpoints[0] == 0 and self.checkpoints[-1] == self.num_blocks,
            "checkpoints",
            expected=f"from 0 to num_blocks={self.num_blocks}",
            got=self.checkpoints,
        )
        require(
            all(rung < self.num_blocks for rung in self.rungs),
            "rungs",
            expected=f"blocks before num_blocks={self.num_blocks}",
            got=self.rungs,
        )
        require(
            set(self.compared_batch_sizes) <= set(self.batch_sizes),
            "compared_batch_sizes",
            expected=f"some of batch_sizes={self.batch_sizes}",
            got=self.compared_batch_sizes,
        )
        require(
            set(self.tracked_bands) <= set(self.bands),
            "tracked_bands",
            expected="some of bands",
            got=self.tracked_bands,
        )

    @property
    def targets(self) -> tuple[float, ...]:
        """All target losses, the lowest first."""
        return tuple(sorted((self.target_loss, *self.easier_targets)))

    @property
    def control_batch_size(self) -> int:
        """The batch size of the control."""
        return self.batch_sizes[len(self.batch_sizes) // 2]

    @property
    def shape(self) -> ModularTransformerConfig:
        """The network, without the interventions of a stage."""
        return ModularTransformerConfig(
            vocab_size=self.task.vocab_size,
            context_length=self.task.context_length,
            hidden_size=self.hidden_size,
            num_layers=self.num_layers,
            embedding_std=self.embedding_std,
        )

    def batch_sizes_of(self, stage: str) -> tuple[int, ...]:
        """The batch sizes that a stage is trained at.

        Example:
            >>> ToyConfig(compared_batch_sizes=(32, 512)).batch_sizes_of("rope")
            (32, 512)
        """
        return self.batch_sizes if stage in SWEPT_STAGES else self.compared_batch_sizes

    def steps_per_block(self, batch_size: int) -> int:
        """Steps between two evaluations."""
        return self.tokens_per_block // (batch_size * self.task.context_length)

    def learning_rates(self, batch_size: int) -> list[float]:
        """Candidates at a batch size (Spectral Lens, B.3), ascending, without duplicates.

        Example:
            >>> ToyConfig(base_learning_rate=1.0, multipliers=(1.0,)).learning_rates(128)
            [2.0, 4.0]
        """
        ratio = batch_size / min(self.batch_sizes)
        return rate_candidates(ratio, self.multipliers, base=self.base_learning_rate)


PRESETS = {
    "smoke": ToyConfig(
        task=ModularTask(vocab_size=16, context_length=8),
        hidden_size=16,
        num_layers=1,
        num_train=256,
        num_validation=64,
        num_spectrum=64,
        batch_sizes=(8, 16),
        compared_batch_sizes=(8, 16),
        seeds=(0,),
        tokens_per_block=128,
        num_blocks=4,
        base_learning_rate=5e-3,
        multipliers=(1.0,),
        rungs=(1,),
        target_loss=2.5,
        checkpoints=(0, 2, 4),
        window=(3, 10),
        tracked_bands=((13, 2),),
        bands=((5, 0), (13, 2)),
    ),
    "cpu": ToyConfig(
        task=ModularTask(vocab_size=64, context_length=32),
        hidden_size=64,
        num_validation=256,
        batch_sizes=(4, 8, 16, 32, 64),
        compared_batch_sizes=(4, 16, 64),
        seeds=(0, 1, 2),
        tokens_per_block=64 * 32 * 10,
        num_blocks=100,
        base_learning_rate=3e-4,
        multipliers=(1.0, 2.0),
        rungs=(5, 20),
        easier_targets=(3.2, 3.0, 2.8, 2.6, 2.4, 2.2),
        checkpoints=(0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 30, 36, 48, 60, 80, 100),
        tracked_bands=((17, 0), (23, 0), (29, 0), (31, 0)),
        bands=((13, 0), (13, 1), (17, 0), (17, 1), (19, 0), (23, 0), (29, 0), (31, 0)),
    ),
    "long": ToyConfig(
        task=ModularTask(vocab_size=256, context_length=64),
        num_validation=512,
        tokens_per_block=512 * 64 * 10,
        num_blocks=200,
        multipliers=(0.5, 1.0, 2.0),
        rungs=(10, 40),
        easier_targets=(3.6, 3.4, 3.2, 3.0, 2.8, 2.6, 2.4, 2.2),
        checkpoints=(
            *(0, 1, 2, 3, 4, 6, 8, 10, 12, 16, 20, 24, 30, 40, 50, 60, 80, 100, 120, 140),
            *(160, 180, 200),
        ),
        tracked_bands=((17, 0), (23, 0), (31, 0)),
        bands=((13, 0), (13, 1), (17, 0), (17, 1), (19, 0), (19, 1), (23, 0), (31, 0)),
    ),
    "paper": ToyConfig(),
}
Band = tuple[int, int]

"""`lnpjax export`."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Literal

from lnpjax._base.checks import require
from lnpjax.commands._exit import Exit
from lnpjax.commands._show import shown
from lnpjax.data.tokenizers import JsonTokenizer
from lnpjax.models import Llama, ViT, save_checkpoint
from lnpjax.pretraining import read_model
from lnpjax.pretraining.config.networks import kind_of_model
from lnpjax.runs._lock import refuse_links_in


@dataclasses.dataclass(frozen=True, kw_only=True)
class Export:
    """Write the trained model of a run as a folder that transformers loads.

    The folder has config.json, model.safetensors and, if the run was trained with a tokenizer of
    Hugging Face, tokenizer.json. The data of the run are not needed.

    Args:
        run: The run folder.
        to: The format.
        step: The checkpoint. None: the last one.
        out: A new or empty folder. None: RUN/export/STEP.
    """

    run: str
    to: Literal["safetensors"] = "safetensors"
    step: int | None = None
    out: str | None = None

    def __call__(self) -> int:
        """Run the command.

        Returns:
            The exit status.
        """
        model, config, step = read_model(self.run, step=self.step)
        kind = kind_of_model(config.model)
        expected = "the run of a llama or a vit, which transformers has"
        fits = isinstance(model, Llama | ViT)
        require(fits, "run", expected=expected, got=f"one of the model {kind}")
        folder = Path(self.run) / "export" / str(step) if self.out is None else Path(self.out)
        if self.out is None:
            refuse_links_in(folder)  # of a run, which may be a stranger's
        tokenizer = config.data.tokenizer
        end = None if tokenizer is None else JsonTokenizer.from_file(tokenizer).end_of_text
        save_checkpoint(folder, model, tokenizer_file=tokenizer, end_of_text=end)
        print(f"step {step}, {config.model.num_parameters:,} parameters: {shown(folder)}")
        if tokenizer is None and not config.data.classifies:
            print("no tokenizer.json: the tokens of this run are bytes or pixels")
        return Exit.DONE

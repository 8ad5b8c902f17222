"""The same methods in the trainers of others: a loop of your own, Lightning's Trainer, Hugging Face's Trainer.

`session` needs torch alone; `lightning` and `transformers` are to be imported by those who have these installed.
"""

from assay.integrations.session import Session

__all__ = ["Session"]

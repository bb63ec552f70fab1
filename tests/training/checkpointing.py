"""What TrainingArguments calls activation checkpointing."""

from transformers import TrainingArguments

NEW = "activation_checkpointing"
"""Its name from Transformers 5.20 on."""

CHECKPOINTING = {NEW if NEW in TrainingArguments.__dataclass_fields__ else "gradient_checkpointing": True}

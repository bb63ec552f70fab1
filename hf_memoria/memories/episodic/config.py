"""Settings of an episodic memory, as they stand in `config.memory`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

from hf_memoria.memories.episodic.store.keep import KEEPS, KeepPolicy
from hf_memoria.memories.shared.settings import AUTO, GatedSettings
from hf_memoria.settings import MOST_COUNTED, check_bool, check_count, check_list_of_counts, check_number, check_one_of

CONTENTS = ("ids", "hidden")
SHARE_CONTENTS = ("inputs", "keys_values")
WEIGHTINGS = ("softmax", "stick_breaking")
ASSOCIATIONS = (None, "spread")
GATES = (None, "tanh", AUTO)
GRAPHS = ("segment", "cofire", "both")

MOST_LINKS = 1024
"""Links of an engram: of each pair that fires the links of both are looked through."""

MOST_IN_WINDOW = 64
"""Ids of a window: each is embedded at every read."""


@dataclass
class EpisodicMemoryConfig(GatedSettings):
    """An episodic memory: the ids that were read are kept, and every position searches them with its own query.

    All that is learned is learned at the read, where gradient is: keys and values are made anew of the ids, with the
    embeddings that the model has now. `hf_memoria/how_it_works.md` has the equations.

    Args:
        layers: blocks of the separate read, counted from 0; None is the middle one.
        separate_read: whether these blocks search the store with a query, key and value of their own, beside their
            self-attention.
        share_attention: whether the own self-attention of blocks sees stored inputs of the block among its keys and
            values, in one softmax with the segment's.
        share_layers: blocks whose attention is shared; None is all of them.
        share_content: the part of a position that shared attention keeps in each block: `"inputs"`, which the block
            projects anew at each read, so that gradient reaches its projections, or `"keys_values"`, what it made of
            them, which is smaller where heads of queries share keys, and quicker; nothing is learned through these.
        content: the part of a position that is kept: `"ids"`, its id with those around it, `"hidden"`, the inputs of
            the reading blocks, or both. Positions that come without ids keep their embeddings.
        key_window: ids that a key is made of: that of its position and those before it.
        query_ids: whether a query is made of the ids of its own window, as a key is, beside the hidden state. So a
            word is searched for by itself from the first step on, in whatever block; where positions have no ids, by
            its embedding. It takes `"ids"` in `content`.
        value_ahead: the number of positions that a value's window reaches beyond its own, 0 or 1.
        read_heads: heads of the separate read, each of the size of the backbone's; None is as many as the backbone
            has, and four at most: what a store costs to project grows with them.
        top_k: engrams that a head reads at a position, those of the highest scores; None reads all. Shared attention
            sees so many stored positions beside the last segment's.
        read_all_up_to: engrams of a row that the separate read takes whole, whatever `top_k` is. Only what is read
            gets gradient, and the scores of a store this small are made anyway; 0 always takes the best.
        weighting: the weights of the separate read: `"softmax"`, over scores that fall with age, or
            `"stick_breaking"`, by which the youngest engram that answers is read, however old it is.
        capacity: engrams of a row at most; None keeps everything.
        stm_capacity: the number of the youngest engrams that stay whatever they are worth; None is an eighth of
            `capacity`.
        keep: the rule for what goes when a row is full: `"learned"`, what is expected to get the least attention,
            `"lifespan"`, what has the least life left (Memoria), `"lru"`, what was read longest ago, `"fifo"`, the
            oldest, or `"random"`.
        usage_decay: the decay of the moving average of an engram's attention, where `keep` is `"learned"`. A bounded
            store then counts attention by its square, as with `"lru"`.
        initial_lifespan: segments that an engram lives without attention, where `keep` is `"lifespan"`.
        lifespan_extend_scale: segments of life for one position's whole attention, likewise.
        association: `"spread"` reads a second time, from what is associated with what the first read found; None does
            not.
        association_graph: the relation that counts as association: `"segment"`, what stood in one segment with it,
            `"cofire"`, what fired with it (the engrams that one segment read with large weights are wired together, as
            in Memoria), or `"both"`.
        association_links: engrams that an engram is wired to at most, the strongest; where the graph is not
            `"segment"`.
        exact_distance: the distance before a segment up to which shared attention places stored positions where they
            stood, if the backbone has rotary positions; farther ones are drawn together by the logarithm. None is an
            eighth of the positions that the backbone knows, and one segment at least; four segments where that number
            is not known.
        sink: the number of a document's first positions that are always kept and read, where attention is shared.
        gate: `"tanh"` multiplies each separate read by tanh of a learned scalar that starts at zero, so that the
            backbone starts out as itself; None lets the read in from the start, which learns sooner where questions
            are few. `"auto"` becomes `"tanh"` where memory is put on weights that were trained without it (`wrap`,
            `from_pretrained`), and None in a model from nothing; the model's config says which.
        segment_length: tokens of a segment; None is all the positions that the backbone has.

    Raises:
        TypeError: if a field has the wrong type.
        ValueError: if its value makes no sense.
    """

    kind: ClassVar[str] = "episodic"
    gate_of_trained: ClassVar[str] = "tanh"
    not_of_state: ClassVar[tuple[str, ...]] = (
        "layers",
        "separate_read",
        "read_heads",
        "top_k",
        "read_all_up_to",
        "exact_distance",
        "weighting",
        "association",
        "association_links",  # a state of another number is told by its size
        "gate",
        "value_ahead",
        "query_ids",
    )

    layers: list[int] | None = None
    separate_read: bool = True
    share_attention: bool = False
    share_layers: list[int] | None = None
    share_content: str = "inputs"
    content: list[str] = field(default_factory=lambda: ["ids"])
    key_window: int = 3
    query_ids: bool = False
    value_ahead: int = 1
    read_heads: int | None = None
    top_k: int | None = 32
    read_all_up_to: int = 1024
    weighting: str = "softmax"
    capacity: int | None = 4096
    stm_capacity: int | None = None
    keep: str = "learned"
    usage_decay: float = 0.9
    initial_lifespan: int | float = 9
    lifespan_extend_scale: float = 8.0
    association: str | None = None
    association_graph: str = "segment"
    association_links: int = 16
    exact_distance: int | None = None
    sink: int = 4
    gate: str | None = AUTO
    segment_length: int | None = None

    def __post_init__(self) -> None:
        self.layers = None if self.layers is None else check_list_of_counts("layers", self.layers)
        if self.share_layers is not None:
            self.share_layers = check_list_of_counts("share_layers", self.share_layers)
        self.content = _check_content(self.content)
        check_bool("separate_read", self.separate_read)
        check_bool("share_attention", self.share_attention)
        check_one_of("share_content", self.share_content, SHARE_CONTENTS)
        check_count("key_window", self.key_window, least=1, most=MOST_IN_WINDOW)
        check_bool("query_ids", self.query_ids)
        check_one_of("value_ahead", self.value_ahead, (0, 1))
        check_count("read_heads", self.read_heads, least=1, optional=True, most=MOST_COUNTED)
        check_count("top_k", self.top_k, least=1, optional=True, most=MOST_COUNTED)
        check_count("read_all_up_to", self.read_all_up_to, most=MOST_COUNTED)
        check_count("capacity", self.capacity, least=1, optional=True, most=MOST_COUNTED)
        check_count("stm_capacity", self.stm_capacity, optional=True, most=MOST_COUNTED)
        check_count("exact_distance", self.exact_distance, least=1, optional=True, most=MOST_COUNTED)
        check_count("sink", self.sink, most=MOST_COUNTED)
        check_one_of("keep", self.keep, KEEPS)
        check_number("usage_decay", self.usage_decay, lambda value: 0 <= value < 1, "of at least 0 and below 1")
        check_number("initial_lifespan", self.initial_lifespan, lambda value: 0 < value <= 2**40, "in (0, 2**40]")
        check_number(
            "lifespan_extend_scale", self.lifespan_extend_scale, lambda value: 0 <= value <= 2**24, "in [0, 2**24]"
        )
        check_one_of("weighting", self.weighting, WEIGHTINGS)
        check_one_of("association", self.association, ASSOCIATIONS)
        check_one_of("association_graph", self.association_graph, GRAPHS)
        check_count("association_links", self.association_links, least=1, most=MOST_LINKS)
        check_one_of("gate", self.gate, GATES)
        check_count("segment_length", self.segment_length, least=1, optional=True)
        self._check_together()

    def _check_together(self) -> None:
        if not (self.separate_read or self.share_attention):
            raise ValueError("separate_read or share_attention must be True; both are False, and nothing would read.")
        if self.association is not None and not self.separate_read:
            raise ValueError(
                f"association must be None without separate_read, whose second read it is; got {self.association!r}."
            )
        if self.weighting != "softmax" and not self.separate_read:
            raise ValueError(
                f"weighting must be 'softmax' without separate_read, whose weights it is; got {self.weighting!r}."
            )
        if self.weighting != "softmax" and self.association is not None:
            raise ValueError(
                f"weighting must be 'softmax' with association={self.association!r}, whose second read knows no other "
                f"weights; got {self.weighting!r}."
            )
        if self.association_graph != "segment" and self.association is None:
            raise ValueError(
                "association_graph must be 'segment' without association, whose graph it is; got "
                f"{self.association_graph!r}. association='spread' reads it."
            )
        if self.share_layers is not None and not self.share_attention:
            raise ValueError(f"share_layers must be None without share_attention; got {self.share_layers}.")
        if self.stores_keys and not self.share_attention:
            raise ValueError(f"share_content must be 'inputs' without share_attention; got {self.share_content!r}.")
        if self.stores_keys and self.separate_read and "hidden" in self.content:
            raise ValueError(
                f"share_content must be 'inputs' where content has 'hidden', which are inputs; got "
                f"{self.share_content!r}."
            )
        if self.exact_distance is not None and not self.share_attention:
            raise ValueError(f"exact_distance must be None without share_attention; got {self.exact_distance}.")

        self._check_queries()
        self._check_capacities()

    def _check_queries(self) -> None:
        if self.query_ids and not self.separate_read:
            raise ValueError("query_ids must be False without separate_read, whose queries they are of; got True.")
        if self.query_ids and "ids" not in self.content:
            raise ValueError(
                f"query_ids must be False where content has no 'ids', which queries would be compared with; got True "
                f"and {self.content}."
            )

    def _check_capacities(self) -> None:
        free = 1 if self.capacity is None else self.capacity - self._protected - self._kept_sink
        if free < 1 and self.keep != "fifo":
            raise ValueError(
                f"stm_capacity and sink must leave room in capacity ({self.capacity}) for what keep={self.keep!r} "
                f"chooses; got {self._protected} and {self._kept_sink}. stm_capacity=None is an eighth of capacity, "
                "and keep='fifo' keeps the youngest."
            )

    @property
    def _protected(self) -> int:
        return (self.capacity or 0) // 8 if self.stm_capacity is None else self.stm_capacity

    @property
    def _kept_sink(self) -> int:
        return self.sink if self.share_attention else 0

    @property
    def stores_keys(self) -> bool:
        """Whether keys and values of blocks are kept, not their inputs."""
        return self.share_content == "keys_values"

    @property
    def stores_hidden(self) -> bool:
        """Whether inputs of blocks are kept, or their keys and values."""
        return self.share_attention or (self.separate_read and "hidden" in self.content)

    @property
    def num_links(self) -> int:
        """Links of an engram, none where no graph of them is read."""
        return 0 if self.association_graph == "segment" else self.association_links

    @property
    def asks_for_past_ids(self) -> bool:
        """Whether queries are made of ids before their own."""
        return self.query_ids and self.key_window > 1

    def policy(self) -> KeepPolicy:
        """Return what a row keeps."""
        return KeepPolicy(
            keep=self.keep,
            capacity=self.capacity,
            protected=self._protected,
            sink=self._kept_sink,
            usage_decay=self.usage_decay,
            initial_lifespan=self.initial_lifespan,
            lifespan_extend_scale=self.lifespan_extend_scale,
        )


def _check_content(value: Any) -> list[str]:
    if not isinstance(value, (list, tuple)):
        raise TypeError(f"content must be a list of {', '.join(map(repr, CONTENTS))}; got {value!r}.")
    for item in value:
        check_one_of("every item of content", item, CONTENTS)
    if not value or len(set(value)) < len(value):
        raise ValueError(f"content must name at least one of {', '.join(map(repr, CONTENTS))}, once; got {value!r}.")
    return list(value)

"""Declarations: a part as data, before any weight exists.

A part is a frozen pydantic model that says what it takes and gives. Every question about a recipe (does it fit, what
would, what does it cost, what does its bound read) is answered by walking declarations; ``build`` walks the same tree.
The wiring of a part is stated once, in ``nested``, so that what is checked is what is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    SerializeAsAny,
    Strict,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from compose.core import registry
from compose.core.kinds import Kind
from compose.core.spaces import Codes, Real, Space

if TYPE_CHECKING:
    from torch import nn

Use = Literal[
    "prior", "likelihood", "posterior", "noise", "net", "stage", "transform", "quantizer", "objective", "data"
]


@dataclass(frozen=True)
class Slot:
    """A place in a model where a part sits, and what that place hands it.

    Args:
        use: What the part is used for; decides its polarity.
        space: What a density scores, what a stage stands on, what a net must give.
        condition: What conditions a density, what a net takes; none where nothing does.
        labels: The model's class labels, offered to every part; none where the data give none.
        origin: Where the space comes from, for messages: ``stage 'codes' gives``.
        beneath: The slot of the stage right below a prior, where that stage has a posterior to lend.
        model: The model an objective trains.
        batch: How many examples an objective sees at once; none where that is not known.
        steer: A vector that a net takes beside its input, as a diffusion says the time; none where there is none.
        strict: Whether a net must give just that space; not where its layers alone are looked at.
    """

    use: Use
    space: Space
    condition: Space | None = None
    labels: Codes | None = None
    origin: str = "the data give"
    beneath: Slot | None = None
    model: Part | None = None
    batch: int | None = None
    steer: Space | None = None
    strict: bool = True

    @property
    def negative(self) -> bool:
        """Whether the density here enters the log weight with a minus, and so must be exact."""
        return self.use in ("posterior", "noise")


@dataclass(frozen=True)
class Misfit:
    """Why a part does not fit its slot.

    Args:
        message: What came and what is wanted.
        key: Option at fault, relative to the part; empty for the part itself.
        swap: Whether another part in this slot would mend it, so that the parts that fit are worth listing.
    """

    message: str
    key: str = ""
    swap: bool = True


#: Beside a nested record's type: a mapping is how a recipe writes it, however strict all else is.
MAPPING = Strict(False)


class Declared(BaseModel):
    """Base of everything that a recipe writes: frozen, strict (no "16" for 16), and helpful about unknown keys."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        validate_default=True,
        use_attribute_docstrings=True,
        arbitrary_types_allowed=True,
    )

    #: Keys that a recipe may write besides the fields, because a validator spells them out.
    shorthand: ClassVar[tuple[str, ...]] = ()

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        unknown = [key for key in value if key not in cls.model_fields]
        if not unknown:
            return value
        name, keys = cls.called(), [*cls.shorthand, *cls.model_fields]
        error = PydanticCustomError(
            "unknown_key", "no option of '{name}'", {"name": name, "options": ", ".join(keys) or "none"}
        )
        raise ValidationError.from_exception_data(
            cls.__name__, [InitErrorDetails(type=error, loc=(key,), input=value[key]) for key in unknown]
        )

    @property
    def training_differs(self) -> str:
        """Why it computes something else in training mode; empty where it does not."""
        return ""

    @classmethod
    def called(cls) -> str:
        """The name of this record in messages."""
        return cls.__name__.lower()

    @classmethod
    def needs_options(cls) -> bool:
        """Whether it cannot do with its defaults alone."""
        return any(field.is_required() for field in cls.model_fields.values())


class Part(Declared):
    """Base of every declaration of a part.

    Class attributes: ``type`` is the name in recipes, ``role`` the shelf it stands on, ``source`` where the idea comes
    from. Options are fields with defaults; a docstring under a field is its meaning.
    """

    type: ClassVar[str] = ""
    role: ClassVar[str] = ""
    source: ClassVar[str] = ""
    #: Names of its module's parameters that no gradient reaches, where that is meant.
    untrained: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def called(cls) -> str:
        """The part's name in recipes."""
        return cls.type

    def misfits(self, slot: Slot) -> Iterator[Misfit]:
        """Everything that keeps this part (not its children) from ``slot``."""
        yield from ()

    def kind(self, slot: Slot) -> Kind:
        """What the log-probability of this part promises in ``slot``; of a part without one, nothing is weakened."""
        return Kind.EXACT

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """The parts inside this one by key path, ``encoder`` or ``stages.0``, each with the slot it is handed.

        A part that is built several times stands there as ``encoder#0``, ``encoder#1``, ...; the module keeps them in a
        ``ModuleList`` called ``encoder``. Where this part does not fit its own slot, a best guess: then the next fault
        is found too.
        """
        return {}

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The module of this part, around the built parts of ``nested``."""
        raise NotImplementedError(f"{self.__class__.__name__} declares no module")

    def build(self, slot: Slot) -> nn.Module:
        """Builds the nested parts in their slots, then this part around them."""
        return self.make(slot, {key: part.build(inner) for key, (part, inner) in self.nested(slot).items()})

    def narrowed(self) -> Part:
        """The same, where its noise is such that an integral over it can be made: for proofs on a tiny space."""
        return self

    def walk(self, slot: Slot, path: str = "") -> Iterator[tuple[str, Part, Slot]]:
        """This part and all below it, each with its key path and its slot; owners before their children."""
        yield path, self, slot
        for key, (part, inner) in self.nested(slot).items():
            yield from part.walk(inner, f"{path}.{key}" if path else key)

    @model_serializer(mode="wrap")
    def _serialize(self, handler: Any) -> dict[str, Any]:
        return {"type": self.type, **handler(self)} if self.type else handler(self)


def in_recipe(key: str) -> str:
    """The key path of a part as recipes have it: the same for all that are built from one declaration."""
    return re.sub(r"#\d+", "", key)


def in_module(key: str) -> str:
    """The path of a part's module inside the model."""
    return key.replace("#", ".")


def _resolve(role: str, value: Any) -> Any:
    """Turns ``name`` or ``{type: name, ...}`` into the declaration it stands for."""
    if isinstance(value, Part):
        if value.role != role:
            context = {"role": role, "came": value.type, "is": value.role}
            raise PydanticCustomError("part_role", "'{came}' is a {is}, but a {role} is wanted", context)
        return value
    if isinstance(value, str):
        value = {"type": value}
    if not isinstance(value, Mapping):
        context = {"role": role, "came": _SPOKEN.get(type(value), type(value).__name__), "form": "{type: name, ...}"}
        raise PydanticCustomError("part_form", "{came} stands where a {role} is wanted: its name, or {form}", context)
    options = dict(value)
    name = options.pop("type", None)
    if name is None:
        raise PydanticCustomError("part_type", "the key 'type' is missing: which {role}?", {"role": role})
    if not isinstance(name, str) or name not in registry.names(role):
        context = {"role": role, "name": str(name), "said": repr(name)}
        raise PydanticCustomError("part_type", "there is no {role} called {said}", context)
    return registry.load(role, name).model_validate(options)


_SPOKEN = {list: "a list", int: "a number", float: "a number", bool: "a truth value", type(None): "nothing"}


def part_field(role: str) -> Any:
    """The type of a field that holds a nested part of ``role``.

    A recipe writes the part's name, or a mapping with ``type`` and options; Python hands the declaration itself.
    """
    return Annotated[SerializeAsAny[Part], BeforeValidator(lambda value: _resolve(role, value)), PartOf(role)]


@dataclass(frozen=True)
class PartOf:
    """Marks a field as holding a part of a role; read by the schema and by ``parts``."""

    role: str

    def __get_pydantic_json_schema__(self, schema: Any, handler: Any) -> dict[str, Any]:
        # The schema of a role is written by ``compose.recipe.schema``; pydantic lets no reference of its own form pass.
        return {"$ref": f"https://compose/{self.role}"}


class NetPart(Part):
    """A network that knows no probability: takes one ``Real``, gives another."""

    role: ClassVar[str] = "net"
    #: Whether it can take a vector beside its input, ``net(x, steer)``; to others that comes as more channels.
    steered: ClassVar[bool] = False


class ObjectivePart(Part):
    """What a player minimises, in nats per example."""

    role: ClassVar[str] = "objective"
    #: Whether it trains one side of an edge only, what comes up to it or what comes down.
    one_sided: ClassVar[bool] = False

    @property
    def reaches(self) -> tuple[str, ...]:
        """Which of the model's parts its loss depends on; where it is one-sided, a gradient need not reach all."""
        return "stages", "prior"


class DataPart(Part):
    """A data set: its spaces are known without reading its examples."""

    role: ClassVar[str] = "data"

    def spaces(self) -> tuple[Space, Codes | None]:
        """The space of one example, and that of its label where labels are asked for.

        Raises:
            DataError: a file is missing or broken.
        """
        raise NotImplementedError(f"{self.__class__.__name__} must declare its spaces")

    def load(self) -> Any:
        """Reads everything: a ``compose.data.source.Source``.

        Raises:
            DataError: a file is missing, truncated or holds values out of range.
        """
        raise NotImplementedError(f"{self.__class__.__name__} must say how it is read")


def as_real(space: Space) -> Real:
    """The space of the features that a net sees of ``space``: codes scaled (ordered) or one-hot (unordered)."""
    if isinstance(space, Real):
        return space
    if space.ordered:
        return Real(space.shape)
    return Real((space.size, *space.shape))

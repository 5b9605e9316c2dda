"""What can be verified, how a finding speaks, and bounds against an evidence that is summed from above."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from torch import Tensor, nn

import compose
from compose.core.declare import Part, Slot
from compose.core.errors import ComposeError, RecipeError
from compose.core.kinds import Kind
from compose.core.model import ModelDensity
from compose.core.random import standard_normal
from compose.core.roles import Density, Mode, Stage, StagePart, Step
from compose.core.spaces import Codes, Real, Space
from compose.nets.unet import UNet
from compose.parts.densities.categorical import Categorical
from compose.parts.densities.diffusion import Diffusion
from compose.parts.densities.model import Model
from compose.verification import CHECKS, structure, verify, verify_all
from compose.verification.tiny import Tiny, shrink

PIXELS = Codes((1, 4, 4), 5)


class Nearest(StagePart):
    """Up the code that an encoder likes best, down its likelihood: a bound, since one code of several is counted."""

    type: ClassVar[str] = "nearest"
    source: ClassVar[str] = "a test"

    promises: Literal["subweight", "bound", "none"] = "subweight"
    """Its kind."""
    too_much: float = 0.0
    """Nats added to what is right."""

    def above(self, below: Space) -> Codes:
        """Two codes of three values."""
        return Codes((2,), 3, ordered=False)

    def terms(self) -> dict[str, str]:
        """One."""
        return {"log_likelihood": "likelihood"}

    def kind(self, slot: Slot) -> Kind:
        """As it is told to."""
        return Kind[self.promises.upper()]

    def nested(self, slot: Slot) -> dict[str, tuple[Part, Slot]]:
        """A likelihood."""
        features = Categorical().features(slot.space)
        return {"likelihood": (Categorical(), Slot("likelihood", slot.space, features))}

    def make(self, slot: Slot, children: Mapping[str, nn.Module]) -> nn.Module:
        """The stage."""
        likelihood = children["likelihood"]
        assert isinstance(likelihood, Density)
        return NearestStage(slot.space, self.above(slot.space), likelihood, self)


class NearestStage(Stage):
    """Linear maps between codes."""

    draws = True

    def __init__(self, below: Space, above: Codes, likelihood: Density, options: Nearest) -> None:
        super().__init__(below, above)
        self.likelihood, self.options = likelihood, options
        assert isinstance(likelihood.condition, Real)
        self.encoder = nn.Parameter(torch.zeros(below.dim, above.dim, above.size), requires_grad=False)
        self.decoder = nn.Linear(above.dim * above.size, likelihood.condition.dim)

    def infer(self, x: Tensor, c: Tensor | None = None, closed: bool = False, mode: Mode = "path") -> Step:
        """The best code; a bound by expectation draws noise of mean 0 beside."""
        z = torch.einsum("bi,ijk->bjk", x.flatten(1).to(self.encoder.dtype), self.encoder).argmax(-1)
        found = self.likelihood.log_prob(x, self.down(z)[1]) + self.options.too_much
        if self.options.promises == "bound":
            found = found + standard_normal((len(x),), self.encoder)
        return Step(z, {"log_likelihood": found})

    def down(self, z: Tensor, c: Tensor | None = None, drawn: Sequence[Tensor] = ()) -> tuple[Density, Tensor]:
        """The likelihood given the codes."""
        one_hot = nn.functional.one_hot(z, 3).flatten(1).to(self.decoder.weight.dtype)
        assert isinstance(self.likelihood.condition, Real)
        return self.likelihood, self.decoder(one_hot).unflatten(1, self.likelihood.condition.shape)

    @torch.no_grad()
    def generate(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        """Draws x."""
        return self.likelihood.sample(len(z), self.down(z)[1])


def verdicts(report: compose.verification.Report, name: str) -> dict[str, str]:
    """The verdict of each finding of a check."""
    return {each.of: each.verdict for each in report.findings[name]}


@pytest.mark.parametrize("kind", ["subweight", "bound"])
def test_a_bound_is_held_against_the_evidence_from_above(kind: Literal["subweight", "bound"]):
    compose.register(Nearest)
    sound = compose.Model(stages=[Nearest(promises=kind)], prior=Categorical())
    mass = verdicts(verify(sound, PIXELS), "total mass")
    assert mass == {"sum of the evidence": "held", "bound above the evidence": "held"}
    wrong = compose.Model(stages=[Nearest(promises=kind, too_much=3.0)], prior=Categorical())
    report = verify(wrong, PIXELS)
    assert verdicts(report, "total mass")["bound above the evidence"] == "FAILED"
    assert "total mass" in report.failed and not report.held


def test_importance_weighting_is_refused_where_it_must_be():
    compose.register(Nearest)
    bound = compose.Model(stages=[Nearest(promises="bound")], prior=Categorical())
    (found,) = verify(bound, PIXELS).findings["importance weighting"]
    assert found.held and "refused" in found.said


def test_what_has_no_likelihood_is_named_and_no_success():
    compose.register(Nearest)
    without = compose.Model(stages=[Nearest(promises="none")], prior=Categorical())
    report = verify(without, PIXELS, only=["total mass", "pyro"])
    assert [each.verdict for found in report.findings.values() for each in found] == ["not checked"] * 2


def test_a_recipe_a_run_a_built_model_and_a_declared_one(tmp_path: Path):
    declared = compose.Model(stages=[compose.Latent(dim=3)])
    train = [{"objective": "elbo", "steps": 2}]
    recipe = compose.Recipe.model_validate({"data": "digits", "model": declared, "train": train})
    some = ["total mass", "log dets"]
    shrunk = {verify(what, only=some).shrunk for what in (recipe, compose.build(recipe))}
    shrunk |= {verify(declared, Codes((1, 8, 8), 17), only=some).shrunk}
    run = compose.train(recipe, out=tmp_path / "run", progress=False)
    shrunk |= {
        verify(run, only=some).shrunk,
        verify(run.path, only=some).shrunk,
        verify(str(run.path), only=some).shrunk,
    }
    assert len(shrunk) == 1


def test_a_model_that_closes_another_is_verified_with_it():
    inner = compose.Model(stages=[compose.Latent(dim=1, likelihood=compose.Normal())], prior=compose.Mixture())
    whole = compose.Model(stages=[compose.Latent(dim=1)], prior=inner)
    report = verify(whole, PIXELS)
    assert report.held and "not checked" not in {each.verdict for found in report.findings.values() for each in found}
    assert set(verdicts(report, "pyro")) == {"x", "z1", "all sites, against L"}


def test_errors_say_what_to_do():
    declared = compose.Model()
    with pytest.raises(ComposeError, match="hand over their space"):
        verify(declared)
    with pytest.raises(ComposeError, match="no check 'mass'; there is: total mass"):
        verify("vae", only=["mass"])
    by_hand = ModelDensity(Real((2,)), [], compose.build(compose.load_recipe("vae")).prior)
    with pytest.raises(ComposeError, match="by hand"):
        verify(by_hand)
    with pytest.raises(RecipeError):
        verify("no such recipe")


def test_a_check_that_breaks_down_fails_and_the_others_go_on(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Tiny, "data", lambda self, n: 1 / 0)
    report = verify("vae", only=["rows", "polarity"])
    assert report.failed == ["rows"]
    assert "broke down: ZeroDivisionError" in report.findings["rows"][0].said


def test_a_log_det_that_is_no_number_is_no_success(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(structure, "_log_jacobian", lambda *_: torch.tensor(torch.nan))
    assert verify("latent_diffusion", only=["log dets"]).failed == ["log dets"]


class Whole(UNet):
    """Keeps all its resolutions."""

    def narrowed(self) -> UNet:
        """Itself."""
        return self


def test_a_net_of_many_resolutions_shrinks_to_few_pixels():
    """Two of them are kept; and a net that keeps all is checked on the smallest image that it fits on."""
    found = []
    for net in (UNet(channels=[24, 48, 48, 96]), Whole(channels=[24, 48, 48, 96])):
        model = Model.model_validate({"prior": Diffusion(net=net, steps=256)})
        found.append(shrink(model, Codes((1, 28, 28), 2)))
    assert [tiny.space.shape for tiny in found] == [(1, 1, 2), (1, 8, 8)]
    assert found[0].rich is not None and found[0].rich.space.shape == (1, 2, 2)
    assert found[0].summable and not found[1].summable and found[1].fits
    assert found[1].noise < 1000


def test_what_shrinks_to_the_same_is_verified_once(tmp_path: Path):
    for name, dim in (("a", 16), ("b", 32), ("c", 1)):
        (tmp_path / f"{name}.yaml").write_text(
            f"data: digits\nmodel: {{stages: [{{type: latent, dim: {dim}}}]}}\ntrain: [{{objective: elbo, steps: 1}}]\n"
        )
    a, b, c = verify_all([tmp_path], only=["total mass"])
    assert b.same_as == a.name and not a.same_as and not c.same_as
    assert b.findings == a.findings and b.shrunk == a.shrunk != c.shrunk


def test_meanings_are_sentences():
    assert all(each.meaning.endswith(".") and len(each.meaning.split()) > 6 for each in CHECKS)
    assert len({each.name for each in CHECKS}) == len(CHECKS)

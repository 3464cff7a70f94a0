"""The ArviZ adapter: the installed ArviZ for real, the other generation through its documented signature."""

import sys
import types

import arviz
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pytest
import xarray
from numpyro import handlers
from scipy import stats

from uqsparse.inference import arviz_io
from uqsparse.inference.arviz_io import (
    attributes,
    dataset,
    group_names,
    load,
    pointwise_log_likelihood,
    posterior_to_arviz,
    save,
    to_arviz,
)

RNG = np.random.default_rng(0)
GROUPS = {
    "posterior": {"mu": RNG.normal(size=(2, 5)), "w": RNG.normal(size=(2, 5, 3))},
    "sample_stats": {"diverging": np.zeros((2, 5), dtype=bool)},
    "log_likelihood": {"y": RNG.normal(size=(2, 5, 4))},
    "observed_data": {"y": np.arange(4.0)},
}
NOTES = {"log_evidence": -1.5, "algorithm": "tempered SMC", "converged": True, "ladder": np.array([0.5, 1.0])}


def check_round_trip(data):
    assert set(group_names(data)) == set(GROUPS)
    for group, variables in GROUPS.items():
        for name, value in variables.items():
            np.testing.assert_array_equal(dataset(data, group)[name], value)
    assert dataset(data)["w"].dims[:2] == ("chain", "draw")
    assert dataset(data, "observed_data")["y"].shape == (4,)
    for notes in (attributes(data), data.attrs):
        assert notes["log_evidence"] == -1.5
        assert notes["algorithm"] == "tempered SMC"
        assert notes["converged"] == 1
        assert list(notes["ladder"]) == [0.5, 1.0]


def test_groups_and_attributes_with_the_installed_arviz():
    data = to_arviz(GROUPS, NOTES)
    check_round_trip(data)
    kind = xarray.DataTree if arviz_io.arviz_major() >= 1 else arviz.InferenceData
    assert isinstance(data, kind)


def test_netcdf_round_trip(tmp_path):
    save(to_arviz(GROUPS, NOTES), tmp_path / "posterior.nc")
    check_round_trip(load(tmp_path / "posterior.nc"))
    assert [path.name for path in tmp_path.iterdir()] == ["posterior.nc"]


def from_dict_of_arviz_1(
    data,
    *,
    name=None,
    sample_dims=None,
    save_warmup=None,
    index_origin=None,
    coords=None,
    dims=None,
    pred_dims=None,
    pred_coords=None,
    check_conventions=True,
    attrs=None,
):
    """`arviz_base.from_dict` of ArviZ 1.3: same signature, same treatment of groups and attributes."""
    assert all(isinstance(variables, dict) for variables in data.values())
    attrs = attrs or {}
    assert set(attrs) <= {*data, "/"}
    datasets = {}
    for group, variables in data.items():
        leading = [] if "data" in group else ["chain", "draw"]
        datasets[group] = xarray.Dataset(
            {
                key: ([*leading, *(f"{key}_dim_{i}" for i in range(np.ndim(v) - len(leading)))], v)
                for key, v in variables.items()
            },
            attrs=attrs.get(group),
        )
    tree = xarray.DataTree.from_dict(datasets, name=name)
    tree.attrs = attrs.get("/", {})
    return tree


def test_arviz_1_gets_the_nested_dictionary_and_gives_a_tree(monkeypatch):
    # No InferenceData and no keyword groups here: a use of either fails, as it does with ArviZ 1.x.
    stand_in = types.SimpleNamespace(__version__="1.3.0", from_dict=from_dict_of_arviz_1)
    monkeypatch.setitem(sys.modules, "arviz", stand_in)
    data = to_arviz(GROUPS, NOTES)
    assert isinstance(data, xarray.DataTree)
    check_round_trip(data)
    with pytest.raises(TypeError, match="must be ArviZ InferenceData or an xarray DataTree"):
        group_names({"posterior": {}})


def test_arviz_0_gets_keyword_groups(monkeypatch):
    def from_dict(
        posterior=None, *, sample_stats=None, log_likelihood=None, observed_data=None, attrs, posterior_attrs
    ):
        assert set(posterior) == {"mu", "w"}
        return "InferenceData"

    monkeypatch.setitem(sys.modules, "arviz", types.SimpleNamespace(__version__="0.22.0", from_dict=from_dict))
    assert to_arviz(GROUPS, NOTES) == "InferenceData"


def test_attributes_that_netcdf_cannot_hold_are_left_out(tmp_path):
    data = to_arviz({"posterior": GROUPS["posterior"]}, {"nothing": None, "empty": [], "names": ["a", "b"]})
    save(data, tmp_path / "x.nc")
    notes = attributes(load(tmp_path / "x.nc"))
    assert "nothing" not in notes
    assert "empty" not in notes
    assert list(notes["names"]) == ["a", "b"]


def test_an_interrupted_write_leaves_the_older_file(tmp_path):
    path = tmp_path / "posterior.nc"
    save(to_arviz(GROUPS, NOTES), path)
    before = path.read_bytes()

    class Interrupted:
        def to_netcdf(self, where, engine):
            with open(where, "wb") as file:
                file.write(b"half a file")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(Interrupted(), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError, match="does not exist"):
        save(Interrupted(), tmp_path / "nowhere" / "x.nc")


def test_shapes_are_checked_at_the_door():
    with pytest.raises(ValueError, match="non-empty 'posterior'"):
        to_arviz({"posterior": {}})
    with pytest.raises(ValueError, match=r"sample_stats\['e'\] has shape \(2, 4\).*\(2, 5\)"):
        to_arviz({"posterior": GROUPS["posterior"], "sample_stats": {"e": np.zeros((2, 4))}})
    with pytest.raises(ValueError, match=r"posterior\['mu'\] has shape \(5,\)"):
        to_arviz({"posterior": {"mu": np.zeros(5)}})
    with pytest.raises(KeyError, match="no group 'prior'; there are posterior"):
        dataset(to_arviz({"posterior": GROUPS["posterior"]}), "prior")


def two_sites(y, counts, mask=True):
    mu = numpyro.sample("mu", dist.Normal(0, 1))
    rate = numpyro.deterministic("rate", jnp.exp(mu))
    numpyro.factor("penalty", -(mu**2))
    with handlers.scale(scale=3.0), handlers.mask(mask=mask):
        numpyro.sample("y", dist.Normal(mu, 2.0), obs=y)
    with numpyro.plate("count", len(counts)):
        numpyro.sample("counts", dist.Poisson(rate), obs=counts)


Y, COUNTS = np.array([0.5, -1.0, 2.0]), np.array([0, 3])
DRAWS = {"mu": np.random.default_rng(1).normal(size=(2, 7)).astype(np.float32)}


@pytest.mark.parametrize("batch_numbers", [2**22, 10])
def test_log_likelihood_is_per_site_and_per_observation(monkeypatch, batch_numbers):
    monkeypatch.setattr(arviz_io, "_BATCH_NUMBERS", batch_numbers)
    mask = np.array([True, False, True])
    # Draws of a deterministic site come along in practice, stale or not; it is recomputed.
    posterior = {**DRAWS, "rate": np.full((2, 7), np.nan)}
    data = posterior_to_arviz(two_sites, (Y, COUNTS), {"mask": mask}, posterior, {}, {})
    assert set(group_names(data)) == {"posterior", "log_likelihood", "observed_data"}
    mu = DRAWS["mu"].astype(float)[..., None]
    found = dataset(data, "log_likelihood")
    assert set(found.data_vars) == {"y", "counts"}
    np.testing.assert_allclose(found["y"], mask * stats.norm.logpdf(Y, mu, 2.0), rtol=2e-6)
    np.testing.assert_allclose(found["counts"], stats.poisson.logpmf(COUNTS, np.exp(mu)), rtol=2e-5, atol=1e-6)
    assert set(dataset(data, "observed_data").data_vars) == {"y", "counts"}


def test_a_model_that_observes_nothing_has_no_such_groups():
    def prior():
        mu = numpyro.sample("mu", dist.Normal(0, 1))
        numpyro.factor("tilt", mu)

    data = posterior_to_arviz(prior, (), {}, DRAWS)
    assert group_names(data) == ("posterior",)


def test_missing_draws_name_the_site():
    with pytest.raises(ValueError, match=r"latent site.*mu"):
        pointwise_log_likelihood(two_sites, (Y, COUNTS), {}, {"rate": DRAWS["mu"]})

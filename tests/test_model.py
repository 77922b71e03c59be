# SPDX-License-Identifier: Apache-2.0
"""The whole network: golden parameter counts, behaviour at initialisation, and its invariances."""

import copy

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from foldwright.batch import SCHEMA, Batch, collate
from foldwright.data.synthetic import synthetic_example
from foldwright.diffusion.noise import NoiseConfig, NoisedSamples, noise_samples
from foldwright.diffusion.precondition import c_skip
from foldwright.diffusion.sampler import SamplerConfig
from foldwright.kernels import reference
from foldwright.layers.stack import COSTLY, Recompute, set_recomputation
from foldwright.losses import LossConfig, confidence_loss, structure_loss
from foldwright.model import AlphaFold3, ModelConfig
from foldwright.training.step import RolloutConfig, step_losses

SEED = torch.tensor([11, 12])
ROLLOUT = SamplerConfig(steps=2)
# 4 Pairformer blocks, s_inputs and distances to pairs, pLDDT and resolved slots, PAE and PDE (spec 8.1)
CONFIDENCE_HEAD = 4 * 3_070_848 + (2 * 449 + 39) * 128 + 24 * 384 * (50 + 2) + 2 * 128 * 64


def size(module) -> int:
    return sum(t.numel() for t in [*module.parameters(), *module.buffers()])


def noised_in(batch: Batch, dtype: torch.dtype, n_samples: int = 3) -> NoisedSamples:
    noised = noise_samples(batch, n_samples, NoiseConfig(), SEED[: len(batch.token_mask)])
    return NoisedSamples(*(x.to(dtype) for x in (noised.t_hat, noised.x_noisy, noised.x_true)))


def given(noised: NoisedSamples):
    """What is denoised, whatever the rollout says."""
    return lambda x_rollout: noised


def test_parameter_counts_are_the_golden_numbers(ops):
    """Spec 13, to the digit; the total is the sum of the modules there."""
    with torch.device("meta"):
        model = AlphaFold3(ModelConfig(), ops)
    block = model.trunk.pairformer.blocks[0]
    stack = block.pair_stack
    trunk, diffusion = model.trunk, model.diffusion
    counts = {
        "triangle multiplication": (stack.triangle_multiplication_outgoing, 98_816),
        "triangle attention": (stack.triangle_attention_starting, 82_688),
        "pair transition": (stack.transition, 196_864),
        "pair stack": (stack, 559_872),
        "Pairformer block": (block, 3_070_848),
        "48 Pairformer blocks": (trunk.pairformer, 147_400_704),
        "outer product mean": (trunk.msa.blocks[0].outer_product_mean, 135_424),
        "pair-weighted averaging": (trunk.msa.blocks[0].averaging, 13_696),
        "MSA transition": (trunk.msa.blocks[0].transition, 49_280),
        "MSA module": (trunk.msa, 3_001_024),
        "template embedder": (trunk.template, 255_872),
        "relative positions": (trunk.relative_position, 17_792),
        "input embedder": (trunk.embedder, 1_041_472),
        "diffusion encoder": (diffusion.encoder, 1_142_720),
        "diffusion decoder": (diffusion.decoder, 1_036_400),
        "diffusion conditioning": (diffusion.conditioning, 2_438_721),
        "24 diffusion blocks": (diffusion.transformer, 24 * 8_264_320),
        "3 atom blocks": (diffusion.encoder.transformer, 3 * 312_528),
        "diffusion module": (diffusion, 203_257_585),
        "distogram": (model.distogram, 8_256),
        "confidence head": (model.confidence, CONFIDENCE_HEAD),
        "whole model": (model, 355_435_057 + CONFIDENCE_HEAD),
    }
    assert {name: size(module) for name, (module, _) in counts.items()} == {
        n: c for n, (_, c) in counts.items()
    }


def test_at_initialisation_the_output_is_the_skip_term_and_the_trunk_an_identity(ops, miniature, batch):
    model = AlphaFold3(miniature, ops)
    noised = noised_in(batch, torch.float32)
    output = model(batch, given(noised), SEED)
    assert torch.equal(output.x_denoised, c_skip(noised.t_hat)[..., None, None] * noised.x_noisy)
    assert not output.distogram_logits.any()
    s = torch.randn(2, 20, 24)
    z = torch.randn(2, 20, 20, 16)
    s_out, z_out = model.trunk.pairformer(s, z, batch.token_mask, SEED)
    assert torch.equal(s_out, s)
    assert torch.equal(z_out, z)


def test_recycling_has_no_effect_at_initialisation_but_later(ops, miniature, awake, batch):
    def trunk_z(model, cycles, dtype):
        one = copy.copy(batch)
        one.msa, one.deletion_count = (
            batch.msa[:, :1].expand(-1, cycles, -1, -1),
            batch.deletion_count[:, :1].expand(-1, cycles, -1, -1),
        )
        one.msa_mask = batch.msa_mask[:, :1].expand(-1, cycles, -1)
        return model.eval().trunk(one, SEED, dtype)[2]

    fresh = AlphaFold3(miniature, ops)
    assert torch.equal(trunk_z(fresh, 1, torch.float32), trunk_z(fresh, 3, torch.float32))
    model = awake(miniature)
    assert not torch.allclose(trunk_z(model, 1, torch.float64), trunk_z(model, 3, torch.float64))


def test_padding_changes_nothing(miniature, awake, batch):
    """Padded tokens, atoms, rows and templates leave every real entry as it was (dropout off)."""
    model = awake(miniature).eval()
    example = synthetic_example(20, 160, n_rows=9, n_cycles=2, n_templates=2, seed=3)
    plain = collate([example], {})
    padded = collate([example.pad({"N": 29, "A": 256, "M": 14, "T": 3})], {})
    noised = noised_in(plain, torch.float64)
    wide = [torch.zeros(1, 3, 256, 3, dtype=torch.float64) for _ in range(2)]
    for target, source in zip(wide, (noised.x_noisy, noised.x_true), strict=True):
        target[:, :, :160] = source
    first = model(plain, given(noised), SEED[:1])
    second = model(padded, given(NoisedSamples(noised.t_hat, *wide)), SEED[:1])
    atoms, n = int(plain.atom_mask.sum()), int(plain.token_mask.sum())
    torch.testing.assert_close(second.x_denoised[:, :, :atoms], first.x_denoised[:, :, :atoms])
    torch.testing.assert_close(second.z[:, :n, :n], first.z[:, :n, :n])
    torch.testing.assert_close(second.s[:, :n], first.s[:, :n])


MASKS = {name for name in SCHEMA if name.endswith("_mask")} - {"template_pseudo_beta_mask", "ref_mask"}
MASKS |= {"atom_resolved", "truth_resolved", "option_residue"}  # the last: -1 is no option
MASKS |= {name for name in SCHEMA if name.startswith("molecule_")} - {"molecule_type"}  # indices by parts


def scribbled(examples: list[Batch], sizes: dict[str, tuple[int]]) -> Batch:
    """The padded batch with random values in the padding of all features but the masks that say what is."""
    torch.manual_seed(0)
    batch = collate(examples, sizes)
    inside = collate([own.map(torch.ones_like) for own in examples], sizes)  # no padding value is 1
    axes, features = batch.sizes(), dict(vars(batch))
    for name in (name for name in SCHEMA if name not in MASKS):
        value, limit = features[name], axes.get(SCHEMA[name].index_into or "", 20)
        other = torch.randint(0, limit, value.shape).to(value.dtype)
        features[name] = torch.where(getattr(inside, name) == 1, value, other)
    return Batch(**features).check()


def test_what_lies_in_padding_is_never_read(miniature, awake, ops):
    """Losses and gradients of a training step, to the bit."""
    examples = [
        synthetic_example(n, 32 * n // 4, n_rows=9, n_cycles=2, n_templates=2, seed=n) for n in (12, 20)
    ]
    for own in examples:
        own.resolution.fill_(2.0)
    sizes = {
        "N": (29,),
        "A": (256,),
        "M": (14,),
        "T": (3,),
        "K": (2,),
        "G": (4,),
        "F": (300,),
        "V": (2,),
        "Y": (3,),
    }
    model, found = awake(miniature).float().train(), []
    for batch in (collate(examples, sizes), scribbled(examples, sizes)):
        config = LossConfig(bond=1.0, confidence=1.0, pae=1.0)
        terms = step_losses(model, batch, 2, 0, NoiseConfig(), config, RolloutConfig(True, ROLLOUT), ops)
        found.append([*terms.values(), *torch.autograd.grad(terms["loss"], list(model.parameters()))])
    assert torch.isfinite(found[0][0])
    assert all(map(torch.equal, *found))


def test_examples_of_a_batch_do_not_mix(miniature, awake, batch):
    model = awake(miniature).train()
    noised = noised_in(batch, torch.float64)
    together = model(batch, given(noised), SEED)
    alone = batch.map(lambda tensor: tensor[1:])
    single = NoisedSamples(noised.t_hat[1:], noised.x_noisy[1:], noised.x_true[1:])
    torch.testing.assert_close(model(alone, given(single), SEED[1:]).x_denoised, together.x_denoised[1:])


def test_denoised_samples_do_not_depend_on_their_neighbours(miniature, awake, batch):
    """D samples share the trunk and every bias map; each equals what it is alone."""
    model = awake(miniature).eval()
    noised = noised_in(batch, torch.float64)
    together = model(batch, given(noised), SEED).x_denoised
    one = NoisedSamples(noised.t_hat[:, 1:2], noised.x_noisy[:, 1:2], noised.x_true[:, 1:2])
    torch.testing.assert_close(model(batch, given(one), SEED).x_denoised, together[:, 1:2])


def gradients(model, batch, noised, ops) -> list[torch.Tensor]:
    output = model(batch, given(noised), SEED, ROLLOUT)
    config = LossConfig(bond=1.0, confidence=1.0, pae=1.0)
    terms = structure_loss(output.x_denoised, output.distogram_logits, noised, batch, config, ops)
    judged = confidence_loss(output.confidence, output.x_rollout, batch, config)
    return list(torch.autograd.grad(terms["loss"] + judged["loss"], list(model.parameters())))


@pytest.mark.parametrize(
    ("policy", "recompute_ops"),
    [
        (Recompute.block, ()),
        (Recompute.selective, ("aten::bmm",)),
        (Recompute.selective, COSTLY),
        (Recompute.offload, ()),
    ],
)
def test_recomputation_and_loss_by_sample_give_the_same_gradients_under_dropout(
    miniature, awake, batch, ops, policy, recompute_ops, monkeypatch
):
    model = awake(miniature).train()
    noised = noised_in(batch, torch.float64)
    plain = gradients(model, batch, noised, ops)
    set_recomputation(model, policy, recompute_ops)
    monkeypatch.setattr(reference, "_ATOM_PAIRS", 1)
    for a, b in zip(plain, gradients(model, batch, noised, ops), strict=True):
        torch.testing.assert_close(a, b)


def test_selective_recomputation_runs_costly_ops_once(miniature, awake, batch, ops):
    """Counted: products of a forward and backward pass when all are kept, and when all are recomputed."""
    counts = []
    for recompute_ops in ((), COSTLY):
        model = awake(miniature).train()
        set_recomputation(model, Recompute.selective, recompute_ops)
        noised = noised_in(batch, torch.float64)
        with Counter() as counter:
            gradients(model, batch, noised, ops)
        counts.append(counter.products)
    assert counts[0] < 0.85 * counts[1]
    with pytest.raises(ValueError, match="got the op 'aten::relu'"):
        set_recomputation(model, Recompute.selective, ["aten::relu"])


class Counter(TorchDispatchMode):
    """Counts matrix products."""

    products = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.products += func.name().split(".")[0] in COSTLY
        return func(*args, **(kwargs or {}))


def test_every_parameter_is_trained(miniature, awake, batch, ops):
    """Each gets a gradient, but the offsets of norms that only feed softmax logits, which cancels them."""
    batch.token_bonds[:, 3, 4] = batch.token_bonds[:, 4, 3] = True
    model = awake(miniature).train()
    grads = gradients(model, batch, noised_in(batch, torch.float64), ops)
    dead = [n for (n, _), g in zip(model.named_parameters(), grads, strict=True) if g.abs().max() < 1e-12]
    assert {n for n in dead if not n.endswith("pair_bias.offset")} == {
        "trunk.msa.blocks.0.averaging.norm_z.bias"
    }


def test_dropout_follows_the_seed_alone(miniature, awake, batch):
    model = awake(miniature).train()
    noised = noised_in(batch, torch.float64)
    first, again = (model(batch, given(noised), SEED).z for _ in range(2))
    other = model(batch, given(noised), SEED + 1).z
    assert torch.equal(first, again)
    assert not torch.allclose(first, other)


def test_sampling_is_deterministic_and_finite(ops, miniature, batch):
    model = AlphaFold3(miniature, ops).eval()
    config = SamplerConfig(steps=4)
    first, again = (model.sample(batch, 2, config, SEED) for _ in range(2))
    assert first.shape == (2, 2, 160, 3)
    assert torch.equal(first, again)
    assert torch.isfinite(first).all()


def test_bfloat16_stays_near_float64(miniature, awake, batch):
    from foldwright.model import Precision

    low = copy.deepcopy(miniature)
    low.trunk_dtype = low.diffusion_dtype = Precision.bfloat16
    noised = noised_in(batch, torch.float64)
    reference = awake(miniature).eval()(batch, given(noised), SEED).x_denoised.detach()
    single = NoisedSamples(noised.t_hat.float(), noised.x_noisy.float(), noised.x_true.float())
    with torch.no_grad():
        out = awake(low, dtype=torch.float32).eval()(batch, given(single), SEED)
    assert out.x_denoised.dtype == out.distogram_logits.dtype == torch.float32
    assert out.z.dtype == torch.bfloat16
    moved = reference - c_skip(noised.t_hat)[..., None, None] * noised.x_noisy
    assert float((out.x_denoised.double() - reference).norm() / moved.norm()) < 0.05


@pytest.mark.gpu
def test_the_gpu_computes_what_the_cpu_computes(miniature, awake, batch):
    noised = noised_in(batch, torch.float64)
    model = awake(miniature).train()
    expected = model(batch, given(noised), SEED).x_denoised
    on_gpu = NoisedSamples(noised.t_hat.cuda(), noised.x_noisy.cuda(), noised.x_true.cuda())
    out = model.cuda()(batch.to("cuda"), given(on_gpu), SEED.cuda())
    torch.testing.assert_close(out.x_denoised.cpu(), expected)


def test_the_heads_gradient_ends_at_the_trunk(miniature, awake, batch):
    """Eq. 15's confidence terms train the confidence head alone: not the trunk, not what rolled out."""
    model = awake(miniature).train()
    output = model(batch, lambda x_rollout: None, SEED, ROLLOUT)
    assert output.x_denoised is None
    assert not output.x_rollout.requires_grad
    terms = confidence_loss(output.confidence, output.x_rollout, batch, LossConfig(pae=1.0))
    names, parameters = zip(*model.named_parameters(), strict=True)
    grads = torch.autograd.grad(terms["loss"], parameters, allow_unused=True)
    touched = {name.split(".")[0] for name, grad in zip(names, grads, strict=True) if grad is not None}
    assert touched == {"confidence"}


def test_the_rollout_is_a_sample_and_does_not_disturb_the_rest(miniature, awake, batch):
    model = awake(miniature).eval()
    noised = noised_in(batch, torch.float64)
    seen = []

    def watching(x_rollout):
        seen.append(x_rollout)
        return noised

    output = model(batch, watching, SEED, ROLLOUT)
    plain = model(batch, given(noised), SEED)
    assert seen[0] is output.x_rollout
    assert output.x_rollout.shape == (2, 160, 3)
    assert torch.equal(output.x_denoised, plain.x_denoised)
    assert plain.confidence is None

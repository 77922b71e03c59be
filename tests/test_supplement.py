# SPDX-License-Identifier: Apache-2.0
"""The whole network against AF3's supplement in NumPy: float64, one unpadded example, one noised copy a time.

Written from the algorithms (spec 3, 4.1 and 5.1) by means as plain as can be: one-hot products where the
network looks up, all atom pairs under a mask where it has windows, means over lists where it has products.
The weights are the network's, by their names.
"""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import torch
from assemblies import copies, example, make_entry

from foldwright.batch import SCHEMA, collate
from foldwright.diffusion.precondition import denoise
from foldwright.vocabulary import MoleculeType

SIGMA_DATA = 16.0


class Weights:
    """Part of a state dict: attributes and items descend, a call is the linear layer that lies there."""

    def __init__(self, state, prefix=""):
        self._state, self._prefix = state, prefix

    def __getattr__(self, name):
        return Weights(self._state, f"{self._prefix}{name}.")

    def __getitem__(self, number):
        return Weights(self._state, f"{self._prefix}{number}.")

    def get(self, name):
        return self._state.get(self._prefix + name)

    def exists(self):
        return any(name.startswith(self._prefix) for name in self._state)

    def __call__(self, x):
        y, bias = x @ self.get("weight").T, self.get("bias")
        return y if bias is None else y + bias

    def ln(self, x):
        return normalised(x, self.get("weight"), self.get("bias"))


def normalised(x, scale=None, offset=None):
    y = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    y = y if scale is None else y * scale
    return y if offset is None else y + offset


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def relu(x):
    return np.maximum(x, 0)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def one_hot(index, width):
    return np.eye(width)[index]


def distances(x):
    return np.linalg.norm(x[:, None] - x[None], axis=-1)


def distogram(d):
    """39 bins of 1.25 Å from 3.25 Å, the last open, nearer pairs in none."""
    lower = 3.25 + 1.25 * np.arange(39)
    return ((d[..., None] >= lower) & (d[..., None] < np.append(lower[1:], np.inf))).astype(float)


def swiglu(x):
    a, b = np.split(x, 2, -1)
    return a * sigmoid(a) * b


def transition(w, x):
    """Algorithm 11."""
    return w.linear_out(swiglu(w.linear_in(w.norm.ln(x))))


def relative_positions(w, f):
    """Algorithm 3 with its errata."""

    def bins(index, allowed, most):
        offset = np.clip(index[:, None] - index[None] + most, 0, 2 * most)
        return one_hot(np.where(allowed, offset, 2 * most + 1), 2 * most + 2)

    chain, entity, residue = (x[:, None] == x[None] for x in (f.asym_id, f.entity_id, f.residue_index))
    tokens = bins(f.token_index, chain & residue, 32)
    parts = (bins(f.residue_index, chain, 32), tokens, entity[..., None], bins(f.sym_id, entity, 2))
    return w(np.concatenate(parts, -1))


# --- pairs ---


def triangle_multiplication(w, z, outgoing):
    """Algorithms 12 and 13."""
    x = w.norm_in.ln(z)
    gate_a, gate_b, a, b = np.split(w.linear_in(x), 4, -1)
    a, b = sigmoid(gate_a) * a, sigmoid(gate_b) * b
    product = np.einsum("ikc,jkc->ijc" if outgoing else "kic,kjc->ijc", a, b)
    return sigmoid(w.gate(x)) * w.linear_out(w.norm_out.ln(product))


def triangle_attention(w, z, heads, starting):
    """Algorithms 14 and 15."""
    x = w.norm.ln(z)
    q, k, v = (part.reshape(*z.shape[:2], heads, -1) for part in np.split(w.query_key_value(x), 3, -1))
    equation, bias = ("ijhc,ikhc->ijhk", "jkh->jhk") if starting else ("ijhc,kjhc->ijhk", "kih->ihk")
    b = np.einsum(bias, w.bias(x))
    logits = np.einsum(equation, q, k) / np.sqrt(q.shape[-1]) + (b[None] if starting else b[:, None])
    o = np.einsum("ijhk,ikhc->ijhc" if starting else "ijhk,kjhc->ijhc", softmax(logits), v)
    return w.out(sigmoid(w.gate(x)) * o.reshape(*z.shape[:2], -1))


def pair_stack(w, z, heads):
    """Lines 2 to 6 of Algorithm 17, without dropout."""
    z = z + triangle_multiplication(w.triangle_multiplication_outgoing, z, True)
    z = z + triangle_multiplication(w.triangle_multiplication_incoming, z, False)
    z = z + triangle_attention(w.triangle_attention_starting, z, heads, True)
    z = z + triangle_attention(w.triangle_attention_ending, z, heads, False)
    return z + transition(w.transition, z)


def attention(w, queries, keys, bias, heads):
    """Algorithm 24 between its norm and its last gate: queries, keys [N, c], bias [H, N, N]."""
    q = w.query(queries).reshape(len(queries), heads, -1)
    k, v = (part.reshape(len(keys), heads, -1) for part in np.split(w.key_value(keys), 2, -1))
    weights = softmax(np.einsum("ihc,jhc->hij", q, k) / np.sqrt(q.shape[-1]) + bias)
    o = np.einsum("hij,jhc->ihc", weights, v).reshape(len(queries), -1)
    return w.out(sigmoid(w.gate(queries)) * o)


def pairformer(w, s, z, config):
    """Algorithm 17."""
    for block in (w.blocks[number] for number in range(config.blocks)):
        z = pair_stack(block.pair_stack, z, config.pair_heads)
        map_ = block.pair_bias
        bias = normalised(z, map_.get("scale")[0], map_.get("offset")[0]) @ map_.get("weight").T
        x = block.attention.norm.ln(s)
        s = s + attention(block.attention, x, x, bias.transpose(2, 0, 1), config.single_heads)
        s = s + transition(block.transition, s)
    return s, z


def bias_maps(w, z, heads, blocks):
    """LinearNoBias(LN(z)) of each block, LN without offset: [H, N, N] a block."""
    weights = np.split(w.get("weight"), blocks)
    return [
        (normalised(z, w.get("scale")[number]) @ weights[number].T).transpose(2, 0, 1)
        for number in range(blocks)
    ]


# --- atoms ---


def adaptive_norm(w, a, s):
    """Algorithm 26."""
    s = normalised(s, w.norm_s.get("weight"))
    return sigmoid(w.scale(s)) * normalised(a) + w.shift(s)


def conditioned_transition(w, a, s):
    """Algorithm 25."""
    return sigmoid(w.gate(s)) * w.linear_out(swiglu(w.linear_in(adaptive_norm(w.adaln, a, s))))


def atom_transformer(w, q, c, p, config):
    """Algorithm 7: 32 queries of a window see the 128 atoms around its centre."""
    atoms = np.arange(len(q))
    centre = 32 * (atoms // 32) + 15.5
    masked = np.abs(atoms[None] - centre[:, None]) > 64
    maps = bias_maps(w.pair_bias, p, config.heads, config.blocks)
    for number, bias in enumerate(maps):
        block = w.blocks[number]
        own = block.attention
        queries, keys = adaptive_norm(own.adaln_query, q, c), adaptive_norm(own.adaln_key, q, c)
        update = attention(own, queries, keys, np.where(masked, -np.inf, bias), config.heads)
        q = q + sigmoid(own.out_gate(c)) * update
        q = q + conditioned_transition(block.transition, q, c)
    return q


def atom_conditioning(w, f, s=None, z=None):
    """Algorithm 5, lines 1 to 13: c [A, c_atom] and p [A, A, c_atompair]."""
    names = one_hot(f.ref_atom_name_chars, 64).reshape(len(f.ref_pos), -1)
    features = [np.arcsinh(f.ref_charge.astype(float))[:, None], one_hot(f.ref_element, 128), names]
    exists = f.ref_mask[:, None].astype(float)
    c = w.embed_position(f.ref_pos) + w.embed_mask(exists) + w.embed_features(np.concatenate(features, -1))
    c = c * exists
    offset = f.ref_pos[:, None] - f.ref_pos[None]
    v = (f.ref_space_uid[:, None] == f.ref_space_uid[None])[..., None].astype(float)
    near = 1 / (1 + (offset**2).sum(-1, keepdims=True))
    embed = w.pair_embedder
    p = v * (embed.offset(offset) + embed.inverse_square(near) + embed.same_space(v))
    if s is not None:
        c = c + w.embed_s(w.norm_s.ln(s))[f.atom_to_token]
        p = p + w.embed_z(w.norm_z.ln(z))[f.atom_to_token][:, f.atom_to_token]
    p = p + w.pair_from_query(relu(c))[:, None] + w.pair_from_key(relu(c))[None]
    return c, p + w.pair_mlp[5](relu(w.pair_mlp[3](relu(w.pair_mlp[1](relu(p))))))


def encode_atoms(w, f, q, c, p, config):
    """Algorithm 5 from line 14 on: a [N, c_token], q [A, c_atom]."""
    q = atom_transformer(w.transformer, q, c, p, config)
    x = relu(w.to_token(q))
    return np.stack([x[f.atom_to_token == token].mean(0) for token in range(len(f.restype))]), q


# --- trunk ---


def embed_templates(w, f, z, config):
    """Algorithm 16: the mean over the templates that are there."""
    total = np.zeros((*z.shape[:2], config.channels))
    same_chain = (f.asym_id[:, None] == f.asym_id[None])[..., None]
    for t in np.flatnonzero(f.template_mask):
        beta, frame = (m[:, None] & m[None] for m in
                       (f.template_pseudo_beta_mask[t], f.template_backbone_mask[t]))  # fmt: skip
        n, ca, c = f.template_backbone[t].transpose(1, 0, 2)
        first = (c - ca) / np.linalg.norm(c - ca, axis=-1, keepdims=True)
        second = n - ca - ((n - ca) * first).sum(-1, keepdims=True) * first
        second /= np.linalg.norm(second, axis=-1, keepdims=True)
        axes = np.stack([first, second, np.cross(first, second)], -2)
        local = np.einsum("iax,ijx->ija", axes, ca[None] - ca[:, None])
        unit = local / np.maximum(np.linalg.norm(local, axis=-1, keepdims=True), 1e-9)
        bins = distogram(distances(f.template_pseudo_beta[t])) * beta[..., None]
        pairs = np.concatenate([bins, frame[..., None], unit * frame[..., None], beta[..., None]], -1)
        restype = one_hot(f.template_restype[t], 32)
        v = w.embed_z(w.norm_z.ln(z)) + w.embed_pair(pairs * same_chain)
        v = v + w.embed_restype_i(restype)[:, None] + w.embed_restype_j(restype)[None]
        for number in range(config.blocks):
            v = pair_stack(w.stack.blocks[number], v, config.heads)
        total += w.norm_out.ln(v)
    return w.out(relu(total / max(f.template_mask.sum(), 1)))


def msa_module(w, f, cycle, z, s_inputs, config):
    """Algorithms 8, 9 and 10."""
    rows = f.msa_mask[cycle]
    letters, deletions = f.msa[cycle][rows], f.deletion_count[cycle][rows].astype(float)
    parts = [np.minimum(deletions, 1)[..., None], (2 / np.pi * np.arctan(deletions / 3))[..., None]]
    m = w.embed_msa(np.concatenate([one_hot(letters, 32), *parts], -1)) + w.embed_single(s_inputs)
    for block in (w.blocks[number] for number in range(config.blocks)):
        product = block.outer_product_mean
        a, b = np.split(product.linear_in(product.norm.ln(m)), 2, -1)
        outer = np.einsum("sic,sjd->ijcd", a, b).reshape(*z.shape[:2], -1)
        z = z + product.linear_out(outer) / (len(m) + 1e-3)
        if block.averaging.exists():
            own = block.averaging
            x = own.norm_m.ln(m)
            values = own.value(x).reshape(*x.shape[:2], config.heads, -1)
            weights = softmax(own.weight(own.norm_z.ln(z)).transpose(2, 0, 1))
            mean = np.einsum("hij,sjhc->sihc", weights, values).reshape(*x.shape[:2], -1)
            m = m + own.out(sigmoid(own.gate(x)) * mean)
            m = m + transition(block.transition, m)
        z = pair_stack(block.pair_stack, z, config.pair_heads)
    return z


def trunk(w, f, config):
    """Algorithms 1 and 2: s_inputs, s, z."""
    encoder = w.embedder.encoder
    c, p = atom_conditioning(encoder, f)
    a, _ = encode_atoms(encoder, f, c, c, p, config.atom)
    s_inputs = np.concatenate([a, one_hot(f.restype, 32), f.profile, f.deletion_mean[:, None]], -1)
    s_init, z_init = w.s_init(s_inputs), w.z_init_i(s_inputs)[:, None] + w.z_init_j(s_inputs)[None]
    z_init = z_init + relative_positions(w.relative_position, f)
    z_init = z_init + w.token_bonds(f.token_bonds[..., None].astype(float))
    s, z = np.zeros_like(s_init), np.zeros_like(z_init)
    for cycle in range(len(f.msa)):
        z = z_init + w.recycle_z(w.norm_z.ln(z))
        z = z + embed_templates(w.template, f, z, config.template)
        z = msa_module(w.msa, f, cycle, z, s_inputs, config.msa)
        s, z = pairformer(w.pairformer, s_init + w.recycle_s(w.norm_s.ln(s)), z, config.pairformer)
    return s_inputs, s, z


# --- diffusion and confidence ---


def denoised(w, f, s_inputs, s, z, x, t_hat, config):
    """Algorithms 20 to 23 and 6, of one noised copy x [A, 3] at t̂."""
    own = w.conditioning
    z = own.embed_z(own.norm_z.ln(np.concatenate([z, relative_positions(own.relative_position, f)], -1)))
    single = own.embed_s(own.norm_s.ln(np.concatenate([s, s_inputs], -1)))
    c_noise = np.log(t_hat / SIGMA_DATA) / 4
    noise = np.cos(2 * np.pi * (c_noise * own.fourier.get("w") + own.fourier.get("b")))
    single = single + own.embed_noise(own.norm_noise.ln(noise))
    for number in range(2):
        z = z + transition(own.transitions_z[number], z)
        single = single + transition(own.transitions_s[number], single)
    scale = np.sqrt(t_hat**2 + SIGMA_DATA**2)
    c, p = atom_conditioning(w.encoder, f, s, z)
    a, q = encode_atoms(w.encoder, f, c + w.encoder.embed_noisy(x / scale), c, p, config.atom)
    a = a + w.embed_s(w.norm_s.ln(single))
    for number, bias in enumerate(bias_maps(w.transformer.pair_bias, z, config.heads, config.blocks)):
        block = w.transformer.blocks[number]
        y = adaptive_norm(block.attention.adaln, a, single)
        update = attention(block.attention, y, y, bias, config.heads)
        a = a + sigmoid(block.attention.out_gate(single)) * update
        a = a + conditioned_transition(block.transition, a, single)
    q = q + w.decoder.from_token(w.norm_a.ln(a))[f.atom_to_token]
    q = atom_transformer(w.decoder.transformer, q, c, p, config.atom)
    update = w.decoder.out(w.decoder.norm.ln(q))
    return (SIGMA_DATA / scale) ** 2 * x + SIGMA_DATA * t_hat / scale * update


def judged(w, f, s_inputs, s, z, x, config):
    """Algorithm 31: the logits of pLDDT, PAE, PDE and resolved."""
    z = z + w.z_i(s_inputs)[:, None] + w.z_j(s_inputs)[None]
    z = z + w.distance(distogram(distances(x[f.representative_atom])))
    s, z = pairformer(w.pairformer, s, z, config.pairformer)
    slots = (head.get("weight").reshape(24, -1, s.shape[-1]) for head in (w.plddt, w.resolved))
    plddt, resolved = (
        np.stack([own[slot] @ s[i] for slot, i in zip(f.atom_slot, f.atom_to_token, strict=True)])
        for own in slots
    )
    return plddt, w.pae(z), w.pde(z + z.transpose(1, 0, 2)), resolved


# --- the comparison ---


def varied(seed):
    """A homodimer, a nucleotide, benzene and zinc, with random alignments, templates, bonds and masks."""
    rng = np.random.default_rng(seed)
    entry = make_entry([
        *copies(0, MoleculeType.PROTEIN, "SER TRP GLY LEU VAL".split()[: 4 + seed % 2], 2, rng),
        *copies(1, MoleculeType.RNA, ["G", "C"], 1, rng),
        *copies(2, MoleculeType.LIGAND, ["BNZ"], 1, rng), *copies(3, MoleculeType.LIGAND, ["ZN"], 1, rng),
    ])  # fmt: skip
    batch = example(entry)
    n, atoms, cycles, rows, slots = len(batch.restype), len(batch.ref_pos), 2, 5, 2 + seed % 2

    def flags(*shape, share=0.8):
        return torch.from_numpy(rng.random(shape) < share)

    def normal(*shape):
        return torch.from_numpy(rng.normal(0, 8, shape)).float()

    def integers(low, high, *shape, dtype=torch.uint8):
        return torch.from_numpy(rng.integers(low, high, shape)).to(dtype)

    return replace(
        batch, token_bonds=flags(n, n, share=0.1), profile=normal(n, 32).softmax(-1),
        deletion_mean=normal(n).abs(), ref_mask=flags(atoms),
        ref_charge=integers(-2, 3, atoms, dtype=torch.int8),
        msa=integers(0, 32, cycles, rows, n), deletion_count=integers(0, 9, cycles, rows, n),
        msa_mask=flags(cycles, rows), template_mask=torch.arange(slots) < 2,
        template_restype=integers(0, 32, slots, n), template_pseudo_beta=normal(slots, n, 3),
        template_pseudo_beta_mask=flags(slots, n), template_backbone=normal(slots, n, 3, 3),
        template_backbone_mask=flags(slots, n),
    ).check()  # fmt: skip


def in_numpy(batch):
    """Its features by name, those that are real numbers in float64."""
    features = {name: getattr(batch, name).numpy() for name in SCHEMA}
    return SimpleNamespace(
        **{n: x.astype(float) if x.dtype == np.float32 else x for n, x in features.items()}
    )


def expected_of(w, config, own, x, t_hat):
    """s_inputs, s, z, distogram and confidence logits, denoised copies; x [D, A, 3], t_hat [D]."""
    f = in_numpy(own)
    represented = trunk(w.trunk, f, config.trunk)
    one_way = w.distogram.linear(represented[2])
    copies_ = [
        denoised(w.diffusion, f, *represented, noisy, level, config.diffusion)
        for noisy, level in zip(x, t_hat, strict=True)
    ]
    logits = judged(w.confidence, f, *represented, x[0], config.confidence)
    return [*represented, one_way + one_way.transpose(1, 0, 2), *logits, np.stack(copies_)]


def test_a_padded_batch_is_what_the_supplement_says(miniature, awake):
    """Two examples of different sizes together: trunk, distogram, confidence logits, denoised copies."""
    model, examples = awake(miniature).eval(), [varied(seed) for seed in (0, 1)]
    assert min(len(own.ref_pos) for own in examples) > 96, "no window would be cut"
    batch = collate(examples, {"N": (32,), "A": (192,), "M": (8,), "T": (4,)})
    batch = batch.map(lambda feature: feature.double() if feature.is_floating_point() else feature)
    rng, seed = np.random.default_rng(2), torch.zeros(2, dtype=torch.int64)
    x, t_hat = rng.normal(0, 20, (2, 2, 192, 3)), np.array([[0.3, 700.0], [2500.0, 16.0]])
    with torch.no_grad():
        found = model.trunk(batch, seed, torch.float64)
        shared = model._condition(batch, *found)
        copies_ = denoise(model.diffusion, torch.from_numpy(x), torch.from_numpy(t_hat), shared)
        judged_ = model.confidence(batch, *found, torch.from_numpy(x[:, 0]), seed)
        logits = (judged_.plddt, judged_.pae, judged_.pde, judged_.resolved)
        found = [*found, model.distogram(found[2]), *logits, copies_]
    w = Weights({name: tensor.numpy() for name, tensor in model.state_dict().items()})
    for row, own in enumerate(examples):
        expected = expected_of(w, miniature, own, x[row, :, : len(own.ref_pos)], t_hat[row])
        for tensor, wanted in zip(found, expected, strict=True):
            real = tensor[row].numpy()[tuple(slice(size) for size in wanted.shape)]
            np.testing.assert_allclose(real, wanted, rtol=0, atol=1e-6 * np.abs(wanted).max())
            assert np.abs(wanted).max() > 0.1

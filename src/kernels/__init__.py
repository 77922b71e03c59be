# SPDX-License-Identifier: Apache-2.0
"""Every hot operation of the network, by signature. Implementations plug in behind one registry.

Axes: B batch, D diffusion samples, N tokens, A atoms, M MSA rows, W windows of Q queries and K keys, H heads,
c channels; `...` any leading axes. Activations keep their dtype; statistics and softmax are float32 or wider.

| op | mathematics | callers |
|---|---|---|
| layer_norm(x, weight, bias) | LN over the last axis, affine parts optional | everywhere |
| adaptive_layer_norm(a, g) | σ(g₁) ⊙ LN(a) + g₂, g made of s (Algorithm 26) | diffusion, atom blocks |
| gated_residual(x, update, gate) | x + σ(gate) ⊙ update, gate shared over D (Algorithms 24, 25) | diffusion, atom blocks |
| swiglu(h) | swish(h₁) ⊙ h₂ (Algorithm 25) | conditioned transitions |
| pair_bias(z, ..., key_bias) | W LN(z), heads first, key mask added (Algorithms 10, 14, 24) | single and MSA track |
| norm_and_pair_bias(z, ..., key_bias) | LN(z), and the same map of it (Algorithm 14) | triangle attention |
| transition(x, ..., share) | share x + W_o (swish(W_a LN x) ⊙ W_b LN x), share mostly 1 (Algorithm 11) | every transition without conditioning |
| triangle_multiplication(z, mask, ..., outgoing, seed, rate) | z + dropout(Algorithms 12 and 13) | pair stacks |
| triangle_attention(packed, bias) | softmax_k(q_ij·k_ik/√c + b_jk) v_ik ⊙ σ(g_ij) (Algorithm 14) | pair stacks |
| attention_pair_bias(packed, bias) | softmax(q·k/√c + b) v ⊙ σ(g), b shared over D (Algorithm 24) | single, diffusion |
| window_attention(q, k, v, bias, gate) | the same in atom windows (Algorithm 7) | atom transformers |
| gather_pairs(z, atom_to_token, atom_mask) | z at the tokens of windowed atom pairs (Algorithm 5) | atom encoder |
| outer_product_mean(a, b, mask, weight, bias) | mean_s a_si ⊗ b_sj, projected (Algorithm 9) | MSA module |
| pair_weighted_average(v, logits, gate) | σ(g) ⊙ Σ_j softmax_j(b_ij) v_sj (Algorithm 10) | MSA module |
| dropout_residual(x, update, seed, rate, shared_axis) | x + update ⊙ keep / (1 - rate) | other pair and MSA residuals |
| projected_residual(z, x, weight, seed, rate, shared_axis) | z + W x ⊙ keep / (1 - rate) | triangle attention |
| smooth_lddt(x, x_true, ...) | Algorithm 27, differentiable | diffusion loss |
| weighted_rigid_align(moving, target, weight) | Algorithm 28, no gradient | diffusion loss, evaluation |
"""

from foldwright.kernels.registry import KernelConfig, Ops, select

__all__ = ["KernelConfig", "Ops", "select"]

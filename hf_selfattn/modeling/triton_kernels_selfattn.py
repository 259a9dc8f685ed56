# Copyright 2026 The hf_selfattn authors.
# SPDX-License-Identifier: Apache-2.0
"""Grouped attention on a GPU in three Triton kernels: keys of the sorting, means of the blocks, and attention.

They compute what `GroupedAttentionHead` does with plain products, without a sorted copy of the tokens and without a
mask in memory: a program gathers the tokens of its block through the order and writes each result to its token's
place. Products are added up in float32. The gradients compute the weights again.

The tokens of all rows are one sequence, and a row is where its tokens start and how many of them are real. So rows of
unequal length may stand in it with padding between them or without. The order, and what is kept for each place of it,
has room for N places of each row.

Sizes: N tokens of the longest row, H heads, G groups, K blocks, W tokens of a block, E width of a head, U that of the
metric, D that of a key (E and U) filled up to a power of 2. A token has 3 E + U projections of each head, and values
in E + U - 1 columns. Programs hold TILE tokens and MEANS means at once.
"""

try:  # this file travels with checkpoints to machines without Triton, which do not import it
    import triton
    import triton.language as tl
except ImportError as error:
    raise ImportError("The kernels of the grouped attention need the package triton: pip install triton") from error

LOG2_E = tl.constexpr(1.4426950408889634)  # exponentials are of base 2
PRODUCTS = tl.constexpr("tf32x3")  # of inputs in single precision: three products that keep nearly all of it
SHORTEST = tl.constexpr(1e-12)  # the length that `normalize` divides by at least


@triton.jit
def load_row(starts, lengths, row):
    """Return the first token of a row, for how many tokens it has room, and how many are real."""
    origin = tl.load(starts + row)
    return origin, (tl.load(starts + row + 1) - origin).to(tl.int32), tl.load(lengths + row).to(tl.int32)


@triton.jit
def load_tokens(order, row_head, places, is_place, origin, N):
    """Return which tokens of all rows stand at places of the order of a row and head."""
    return tl.load(order + row_head.to(tl.int64) * N + places, mask=is_place, other=0) + origin


@triton.jit
def load_tile(order, row_head, block, start, origin, room, N, W: tl.constexpr, TILE: tl.constexpr):
    """Return the tokens of a part of a block, their places in the order, and which of these the row has room for."""
    inside = start + tl.arange(0, TILE)
    places = block * W + inside
    is_place = (inside < W) & (places < room)
    return load_tokens(order, row_head, places, is_place, origin, N), places, is_place


@triton.jit
def load_columns(values, tokens, is_real, stride, offset, WIDTH: tl.constexpr, D: tl.constexpr):
    """Return some columns of the tokens, zeros beside them."""
    columns = tl.arange(0, D)[None, :]
    return tl.load(
        values + tokens[:, None] * stride + offset + columns, mask=is_real[:, None] & (columns < WIDTH), other=0.0
    )


@triton.jit
def store_columns(values, tokens, is_place, stride, offset, tile, WIDTH: tl.constexpr, D: tl.constexpr):
    """Write the first columns of the tokens."""
    columns = tl.arange(0, D)[None, :]
    places = values + tokens[:, None] * stride + offset + columns
    tl.store(places, tile.to(values.dtype.element_ty), mask=is_place[:, None] & (columns < WIDTH))


@triton.jit
def store_metric_columns(values, rows, is_place, tile, FIRST: tl.constexpr, U: tl.constexpr, D: tl.constexpr):
    """Write the columns of the metric, which begin at the first."""
    columns = tl.arange(0, D)[None, :] - FIRST
    tl.store(values + rows[:, None] * U + columns, tile, mask=is_place[:, None] & (columns >= 0) & (columns < U))


@triton.jit
def load_units(metric, tokens, is_real, FIRST: tl.constexpr, U: tl.constexpr, D: tl.constexpr):
    """Return the metric of the tokens in columns from the first on, made as long as 1."""
    columns = tl.arange(0, D)[None, :] - FIRST
    is_there = is_real[:, None] & (columns >= 0) & (columns < U)
    vectors = tl.load(metric + tokens[:, None] * U + columns, mask=is_there, other=0.0).to(tl.float32)
    return vectors / tl.maximum(tl.sqrt(tl.sum(vectors * vectors, axis=1)), SHORTEST)[:, None]


@triton.jit
def load_keys(
    projected, metric, tokens, is_real, stride, offset, scale, E: tl.constexpr, U: tl.constexpr, D: tl.constexpr
):
    """Return queries or keys beside their metric, multiplied by a scale: (TILE, D)."""
    vectors = load_columns(projected, tokens, is_real, stride, offset, E, D).to(tl.float32)
    return (vectors + load_units(metric, tokens, is_real, E, U, D) * scale).to(projected.dtype.element_ty)


@triton.jit
def far_logits(query, key_mean, block, other, length, SCALING: tl.constexpr, W: tl.constexpr):
    """Return the logits of the means of other blocks, with the logarithm of the numbers of their tokens, in base 2."""
    counts = tl.minimum(length - other * W, W)
    logits = tl.dot(query, tl.trans(key_mean), input_precision=PRODUCTS) * (SCALING * LOG2_E)
    logits += tl.log2(tl.maximum(counts, 1).to(tl.float32))[None, :]
    return tl.where((counts > 0)[None, :] & (other[None, :] != block[:, None]), logits, float("-inf"))


@triton.jit
def load_means(means, row_head, other, K, PART: tl.constexpr, D: tl.constexpr):
    """Return the mean keys (part 0) or values (part 1) of blocks: (MEANS, D)."""
    columns = tl.arange(0, D)[None, :]
    rows = (row_head.to(tl.int64) * K + other) * 2 + PART
    return tl.load(means + rows[:, None] * D + columns, mask=(other < K)[:, None], other=0.0)


@triton.jit
def load_square(matrices, row_head, PART: tl.constexpr, D: tl.constexpr):
    """Return the covariance of keys and keys (part 0), or of keys and values (part 1): (D, D)."""
    rows, columns = tl.arange(0, D)[:, None], tl.arange(0, D)[None, :]
    return tl.load(matrices + ((row_head.to(tl.int64) * 2 + PART) * D + rows) * D + columns)


@triton.jit
def load_transposed(matrices, row_head, PART: tl.constexpr, D: tl.constexpr):
    """Return the same, rows and columns exchanged."""
    rows, columns = tl.arange(0, D)[:, None], tl.arange(0, D)[None, :]
    return tl.load(matrices + ((row_head.to(tl.int64) * 2 + PART) * D + columns) * D + rows)


@triton.jit
def block_mean(
    projected, metric, order, row_head, block, origin, length, N,
    E: tl.constexpr, U: tl.constexpr, H: tl.constexpr, W: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Return the mean key and the mean value of a block's real tokens: (D,)."""
    key_sum, value_sum = tl.zeros([D], tl.float32), tl.zeros([D], tl.float32)
    offset = (row_head % H) * (3 * E + U)
    count = tl.minimum(length - block * W, W)
    for start in range(0, count, TILE):
        tokens, _, is_real = load_tile(order, row_head, block, start, origin, length, N, W, TILE)
        key = load_keys(projected, metric, tokens, is_real, H * (3 * E + U), offset + E, 1.0, E, U, D)
        value = load_columns(projected, tokens, is_real, H * (3 * E + U), offset + 2 * E, E + U - 1, D)
        key_sum += tl.sum(key.to(tl.float32), axis=0)
        value_sum += tl.sum(value.to(tl.float32), axis=0)
    divisor = tl.maximum(count, 1).to(tl.float32)
    return key_sum / divisor, value_sum / divisor


@triton.jit
def load_centred(
    projected, metric, order, row_head, block, start, key_mean, value_mean, origin, length, N,
    E: tl.constexpr, U: tl.constexpr, H: tl.constexpr, W: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Return how far keys and values of a part of a block lie from their means, zeros at padding: (TILE, D)."""
    offset = (row_head % H) * (3 * E + U)
    tokens, _, is_real = load_tile(order, row_head, block, start, origin, length, N, W, TILE)
    key = load_keys(projected, metric, tokens, is_real, H * (3 * E + U), offset + E, 1.0, E, U, D).to(tl.float32)
    value = load_columns(projected, tokens, is_real, H * (3 * E + U), offset + 2 * E, E + U - 1, D).to(tl.float32)
    key = tl.where(is_real[:, None], key - key_mean[None, :], 0.0)
    return key, tl.where(is_real[:, None], value - value_mean[None, :], 0.0)


@triton.jit(do_not_specialize=["N"])
def keys_kernel(
    metric, prototypes, starts, lengths, keys, N,
    H: tl.constexpr, G: tl.constexpr, U: tl.constexpr, D: tl.constexpr, GROUPS: tl.constexpr, LEVELS: tl.constexpr,
    TILE: tl.constexpr,
):  # fmt: skip
    """Write the group of each token in each head, and how unlike its prototype it is, as one integer."""
    tiles = tl.cdiv(N, TILE)
    row = tl.program_id(0) // tiles
    places = (tl.program_id(0) % tiles) * TILE + tl.arange(0, TILE)
    origin, room, length = load_row(starts, lengths, row)
    unit = load_units(metric, origin + places, places < room, 0, U, D)
    group, column = tl.arange(0, GROUPS)[:, None], tl.arange(0, D)[None, :]
    for head in range(H):
        offsets = (head * G + group) * U + column
        prototype = tl.load(prototypes + offsets, mask=(group < G) & (column < U), other=0.0).to(tl.float32)
        similarity = tl.dot(unit, tl.trans(prototype), input_precision="ieee")
        similarity = tl.where(tl.trans(group) < G, similarity, float("-inf"))
        level = ((1 - tl.max(similarity, axis=1)) * (LEVELS // 2)).to(tl.int32)
        key = tl.argmax(similarity, axis=1) * LEVELS + tl.minimum(tl.maximum(level, 0), LEVELS - 1)
        row_head = (row * H + head).to(tl.int64)
        tl.store(keys + row_head * N + places, tl.where(places < length, key, G * LEVELS), mask=places < N)


@triton.jit(do_not_specialize=["N", "K", "blocks_of_program"])
def means_kernel(
    projected, metric, order, starts, lengths, means, covariance, N, K, blocks_of_program,
    E: tl.constexpr, U: tl.constexpr, H: tl.constexpr, W: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr,
    SCALING: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the means of some blocks, and what these blocks add to the covariances."""
    programs = tl.cdiv(K, blocks_of_program)
    row_head, first = tl.program_id(0) // programs, (tl.program_id(0) % programs) * blocks_of_program
    origin, _, length = load_row(starts, lengths, row_head // H)
    with_keys, with_values = tl.zeros([D, D], tl.float32), tl.zeros([D, D], tl.float32)
    columns = tl.arange(0, D)
    for block in range(first, tl.minimum(first + blocks_of_program, K)):
        key_mean, value_mean = block_mean(
            projected, metric, order, row_head, block, origin, length, N, E, U, H, W, D, TILE
        )
        place = (row_head.to(tl.int64) * K + block) * 2 * D + columns
        tl.store(means + place, key_mean.to(means.dtype.element_ty))
        tl.store(means + place + D, value_mean.to(means.dtype.element_ty))
        for start in range(0, tl.minimum(length - block * W, W), TILE):
            key, value = load_centred(
                projected, metric, order, row_head, block, start, key_mean, value_mean, origin, length, N,
                E, U, H, W, D, TILE,
            )  # fmt: skip
            with_keys += tl.dot(tl.trans(key), key, input_precision=PRECISION)
            with_values += tl.dot(tl.trans(key), value, input_precision=PRECISION)
    share = SCALING / tl.maximum(length, 1).to(tl.float32)
    place = (tl.program_id(0).to(tl.int64) * 2 * D + columns[:, None]) * D + columns[None, :]
    tl.store(covariance + place, with_keys * share)
    tl.store(covariance + place + D * D, with_values * share)


@triton.jit(do_not_specialize=["N", "K"])
def attention_kernel(
    projected, metric, metric_scale, order, starts, lengths, means, covariance, attended, log_sums, far_shares, N, K,
    E: tl.constexpr, U: tl.constexpr, H: tl.constexpr, W: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr,
    MEANS: tl.constexpr, SCALING: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Attend from a part of a block to the block and to the means of the others, and correct these linearly."""
    tiles: tl.constexpr = (W + TILE - 1) // TILE
    row_head, tile = tl.program_id(0) // (K * tiles), tl.program_id(0) % (K * tiles)
    block, start = tile // tiles, (tile % tiles) * TILE
    head, stride = row_head % H, H * (3 * E + U)
    offset = head * (3 * E + U)
    origin, room, length = load_row(starts, lengths, row_head // H)
    scale = tl.load(metric_scale + head).to(tl.float32) * E**0.5
    tokens, places, is_place = load_tile(order, row_head, block, start, origin, room, N, W, TILE)
    is_real = is_place & (places < length)
    query = load_keys(projected, metric, tokens, is_real, stride, offset, scale, E, U, D)

    maximum, total = tl.full([TILE], float("-inf"), tl.float32), tl.zeros([TILE], tl.float32)
    result = tl.zeros([TILE, D], tl.float32)
    near = tl.minimum(length - block * W, W)
    for near_start in range(0, near, TILE):
        others, _, is_key = load_tile(order, row_head, block, near_start, origin, length, N, W, TILE)
        key = load_keys(projected, metric, others, is_key, stride, offset + E, 1.0, E, U, D)
        value = load_columns(projected, others, is_key, stride, offset + 2 * E, E + U - 1, D)
        logits = tl.dot(query, tl.trans(key), input_precision=PRODUCTS) * (SCALING * LOG2_E)
        logits = tl.where(is_key[None, :], logits, float("-inf"))
        highest = tl.maximum(maximum, tl.max(logits, axis=1))
        weights, shrink = tl.exp2(logits - highest[:, None]), tl.exp2(maximum - highest)
        total = total * shrink + tl.sum(weights, axis=1)
        result = result * shrink[:, None] + tl.dot(weights.to(value.dtype), value, input_precision=PRODUCTS)
        maximum = highest

    far = tl.zeros([TILE], tl.float32)
    own = tl.full([TILE], 0, tl.int32) + block
    num_far = tl.where(near > 0, tl.cdiv(length, W), 0)
    for first in range(0, num_far, MEANS):
        other = first + tl.arange(0, MEANS)
        logits = far_logits(query, load_means(means, row_head, other, K, 0, D), own, other, length, SCALING, W)
        value = load_means(means, row_head, other, K, 1, D)
        highest = tl.maximum(maximum, tl.max(logits, axis=1))
        weights, shrink = tl.exp2(logits - highest[:, None]), tl.exp2(maximum - highest)
        far = far * shrink + tl.sum(weights, axis=1)
        total *= shrink
        result = result * shrink[:, None] + tl.dot(weights.to(value.dtype), value, input_precision=PRODUCTS)
        maximum = highest

    total = tl.where(is_real, total + far, 1.0)
    far /= total
    wide = query.to(tl.float32)
    to_keys = tl.dot(wide, load_square(covariance, row_head, 0, D), input_precision=PRECISION)
    variance = tl.maximum(tl.sum(to_keys * wide, axis=1) * SCALING, 0.0)
    shift = tl.dot(wide, load_square(covariance, row_head, 1, D), input_precision=PRECISION)
    result = result / total[:, None] + shift * (far / (1 + variance))[:, None]
    store_columns(
        attended, tokens, is_place, H * (E + U - 1), head * (E + U - 1),
        tl.where(is_real[:, None], result, 0.0), E + U - 1, D,
    )  # fmt: skip
    place = row_head.to(tl.int64) * N + places
    tl.store(log_sums + place, maximum + tl.log2(total), mask=is_real)
    tl.store(far_shares + place, far, mask=is_real)


@triton.jit
def load_output_gradient(
    gradient, tokens, is_real, head, E: tl.constexpr, U: tl.constexpr, H: tl.constexpr, D: tl.constexpr
):
    """Return the gradient of the tokens' results: (TILE, D)."""
    return load_columns(gradient, tokens, is_real, H * (E + U - 1), head * (E + U - 1), E + U - 1, D)


@triton.jit
def near_gradients(query, key, value, towards, log_sum, delta, is_query, is_key, SCALING: tl.constexpr):
    """Return the weights of tokens in a block and the gradients of their logits: (queries, keys)."""
    logits = tl.dot(query, tl.trans(key), input_precision=PRODUCTS) * (SCALING * LOG2_E) - log_sum[:, None]
    weights = tl.where(is_query[:, None] & is_key[None, :], tl.exp2(logits), 0.0)
    along = tl.dot(towards, tl.trans(value), input_precision=PRODUCTS)
    return weights, weights * (along - delta[:, None])


@triton.jit(do_not_specialize=["N", "K"])
def query_gradients_kernel(
    gradient, projected, metric, metric_scale, order, starts, lengths, attended, log_sums, far_shares, means,
    covariance, to_projected, to_units, deltas, slopes, far_weights, N, K,
    E: tl.constexpr, U: tl.constexpr, H: tl.constexpr, W: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr,
    MEANS: tl.constexpr, SCALING: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the queries of a part of a block, and three numbers of each that other kernels need.

    With g the gradient of a result o and s the damped shift that a query's far attention gets: `delta` is g.o, `slope`
    g.s, and `far_weight` the attention to the means, damped.
    """
    tiles: tl.constexpr = (W + TILE - 1) // TILE
    row_head, tile = tl.program_id(0) // (K * tiles), tl.program_id(0) % (K * tiles)
    block, start = tile // tiles, (tile % tiles) * TILE
    head, stride = row_head % H, H * (3 * E + U)
    offset = head * (3 * E + U)
    origin, room, length = load_row(starts, lengths, row_head // H)
    scale = tl.load(metric_scale + head).to(tl.float32) * E**0.5
    tokens, places, is_place = load_tile(order, row_head, block, start, origin, room, N, W, TILE)
    is_real = is_place & (places < length)
    query = load_keys(projected, metric, tokens, is_real, stride, offset, scale, E, U, D)
    towards = load_output_gradient(gradient, tokens, is_real, head, E, U, H, D)
    result = load_output_gradient(attended, tokens, is_real, head, E, U, H, D)
    place = row_head.to(tl.int64) * N + places
    log_sum = tl.load(log_sums + place, mask=is_real, other=0.0)

    wide, wide_towards = query.to(tl.float32), towards.to(tl.float32)
    to_keys = tl.dot(wide, load_square(covariance, row_head, 0, D), input_precision=PRECISION)
    damping = 1 / (1 + tl.maximum(tl.sum(to_keys * wide, axis=1) * SCALING, 0.0))
    along_values = tl.dot(wide_towards, load_transposed(covariance, row_head, 1, D), input_precision=PRECISION)
    slope = damping * tl.sum(along_values * wide, axis=1)
    delta = tl.sum(wide_towards * result.to(tl.float32), axis=1)
    far_weight = damping * tl.load(far_shares + place, mask=is_real, other=0.0)
    tl.store(deltas + place, delta, mask=is_real)
    tl.store(slopes + place, slope, mask=is_real)
    tl.store(far_weights + place, far_weight, mask=is_real)

    to_query = tl.zeros([TILE, D], tl.float32)
    near = tl.minimum(length - block * W, W)
    for near_start in range(0, near, TILE):
        others, _, is_key = load_tile(order, row_head, block, near_start, origin, length, N, W, TILE)
        key = load_keys(projected, metric, others, is_key, stride, offset + E, 1.0, E, U, D)
        value = load_columns(projected, others, is_key, stride, offset + 2 * E, E + U - 1, D)
        _, to_logits = near_gradients(query, key, value, towards, log_sum, delta, is_real, is_key, SCALING)
        to_query += tl.dot(to_logits.to(key.dtype), key, input_precision=PRODUCTS)
    own = tl.full([TILE], 0, tl.int32) + block
    num_far = tl.where(near > 0, tl.cdiv(length, W), 0)
    for first in range(0, num_far, MEANS):
        other = first + tl.arange(0, MEANS)
        key, value = load_means(means, row_head, other, K, 0, D), load_means(means, row_head, other, K, 1, D)
        logits = far_logits(query, key, own, other, length, SCALING, W)
        weights = tl.where(is_real[:, None], tl.exp2(logits - log_sum[:, None]), 0.0)
        along = tl.dot(towards, tl.trans(value), input_precision=PRODUCTS)
        to_logits = weights * (along + (slope - delta)[:, None])
        to_query += tl.dot(to_logits.to(key.dtype), key, input_precision=PRODUCTS)
    # The covariance of the keys is symmetric.
    to_query += far_weight[:, None] * (along_values / SCALING - 2 * slope[:, None] * to_keys)
    to_query *= SCALING
    store_columns(to_projected, tokens, is_place, stride, offset, to_query, E, D)
    store_metric_columns(to_units, (tokens * H + head) * 2, is_place, to_query, E, U, D)


@triton.jit(do_not_specialize=["N", "K", "places_of_program"])
def mean_gradients_kernel(
    gradient, projected, metric, metric_scale, order, starts, lengths, means, log_sums, deltas, slopes, to_means,
    N, K, places_of_program,
    E: tl.constexpr, U: tl.constexpr, H: tl.constexpr, W: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr,
    MEANS: tl.constexpr, SCALING: tl.constexpr,
):  # fmt: skip
    """Write what some queries of a row and head add to the gradients of some means."""
    tiles, programs = tl.cdiv(K, MEANS), tl.cdiv(N, places_of_program)
    row_head, rest = tl.program_id(0) // (tiles * programs), tl.program_id(0) % (tiles * programs)
    program, other = rest // tiles, (rest % tiles) * MEANS + tl.arange(0, MEANS)
    head, stride = row_head % H, H * (3 * E + U)
    origin, _, length = load_row(starts, lengths, row_head // H)
    scale = tl.load(metric_scale + head).to(tl.float32) * E**0.5
    key, value = load_means(means, row_head, other, K, 0, D), load_means(means, row_head, other, K, 1, D)
    to_key, to_value = tl.zeros([MEANS, D], tl.float32), tl.zeros([MEANS, D], tl.float32)
    end = tl.minimum((program + 1) * places_of_program, length)
    for first in range(program * places_of_program, end, TILE):
        places = first + tl.arange(0, TILE)
        is_real = places < end
        tokens = load_tokens(order, row_head, places, is_real, origin, N)
        query = load_keys(projected, metric, tokens, is_real, stride, head * (3 * E + U), scale, E, U, D)
        towards = load_output_gradient(gradient, tokens, is_real, head, E, U, H, D)
        place = row_head.to(tl.int64) * N + places
        log_sum = tl.load(log_sums + place, mask=is_real, other=0.0)
        shift = tl.load(slopes + place, mask=is_real, other=0.0) - tl.load(deltas + place, mask=is_real, other=0.0)
        logits = far_logits(query, key, places // W, other, length, SCALING, W)
        weights = tl.where(is_real[:, None], tl.exp2(logits - log_sum[:, None]), 0.0)
        along = tl.dot(towards, tl.trans(value), input_precision=PRODUCTS)
        to_logits = (weights * (along + shift[:, None])).to(query.dtype)
        to_key += tl.dot(tl.trans(to_logits), query, input_precision=PRODUCTS)
        to_value += tl.dot(tl.trans(weights.to(towards.dtype)), towards, input_precision=PRODUCTS)
    rows = (((row_head * programs + program).to(tl.int64) * K + other) * 2)[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(to_means + rows, to_key * SCALING, mask=(other < K)[:, None])
    tl.store(to_means + rows + D, to_value, mask=(other < K)[:, None])


@triton.jit(do_not_specialize=["N", "places_of_program"])
def covariance_gradients_kernel(
    gradient, projected, metric, metric_scale, order, starts, lengths, slopes, far_weights, to_covariance,
    N, places_of_program,
    E: tl.constexpr, U: tl.constexpr, H: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr, SCALING: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Write what some queries of a row and head add to the gradients of the covariances."""
    programs = tl.cdiv(N, places_of_program)
    row_head, program = tl.program_id(0) // programs, tl.program_id(0) % programs
    head, stride = row_head % H, H * (3 * E + U)
    scale = tl.load(metric_scale + head).to(tl.float32) * E**0.5
    to_keys, to_values = tl.zeros([D, D], tl.float32), tl.zeros([D, D], tl.float32)
    origin, _, length = load_row(starts, lengths, row_head // H)
    end = tl.minimum((program + 1) * places_of_program, length)
    for first in range(program * places_of_program, end, TILE):
        places = first + tl.arange(0, TILE)
        is_real = places < end
        tokens = load_tokens(order, row_head, places, is_real, origin, N)
        query = load_keys(projected, metric, tokens, is_real, stride, head * (3 * E + U), scale, E, U, D)
        towards = load_output_gradient(gradient, tokens, is_real, head, E, U, H, D).to(tl.float32)
        place = row_head.to(tl.int64) * N + places
        slope = tl.load(slopes + place, mask=is_real, other=0.0)
        far_weight = tl.load(far_weights + place, mask=is_real, other=0.0)
        wide = query.to(tl.float32)
        weighted = tl.trans(wide * far_weight[:, None])
        to_keys -= tl.dot(weighted, wide * (slope * SCALING)[:, None], input_precision=PRECISION)
        to_values += tl.dot(weighted, towards, input_precision=PRECISION)
    rows, columns = tl.arange(0, D)[:, None], tl.arange(0, D)[None, :]
    place = (tl.program_id(0).to(tl.int64) * 2 * D + rows) * D + columns
    tl.store(to_covariance + place, to_keys)
    tl.store(to_covariance + place + D * D, to_values)


@triton.jit(do_not_specialize=["N", "K"])
def key_gradients_kernel(
    gradient, projected, metric, metric_scale, order, starts, lengths, log_sums, deltas, to_means, to_covariance,
    to_projected, to_units, N, K,
    E: tl.constexpr, U: tl.constexpr, H: tl.constexpr, W: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr,
    SCALING: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Write the gradients of the keys and values of a part of a block."""
    tiles: tl.constexpr = (W + TILE - 1) // TILE
    row_head, tile = tl.program_id(0) // (K * tiles), tl.program_id(0) % (K * tiles)
    block, start = tile // tiles, (tile % tiles) * TILE
    head, stride = row_head % H, H * (3 * E + U)
    offset = head * (3 * E + U)
    origin, room, length = load_row(starts, lengths, row_head // H)
    scale = tl.load(metric_scale + head).to(tl.float32) * E**0.5
    tokens, places, is_place = load_tile(order, row_head, block, start, origin, room, N, W, TILE)
    is_key = is_place & (places < length)
    key = load_keys(projected, metric, tokens, is_key, stride, offset + E, 1.0, E, U, D)
    value = load_columns(projected, tokens, is_key, stride, offset + 2 * E, E + U - 1, D)
    to_key, to_value = tl.zeros([TILE, D], tl.float32), tl.zeros([TILE, D], tl.float32)
    count = tl.minimum(length - block * W, W)
    for other in range(0, count, TILE):
        others, places, is_query = load_tile(order, row_head, block, other, origin, length, N, W, TILE)
        query = load_keys(projected, metric, others, is_query, stride, offset, scale, E, U, D)
        towards = load_output_gradient(gradient, others, is_query, head, E, U, H, D)
        place = row_head.to(tl.int64) * N + places
        log_sum = tl.load(log_sums + place, mask=is_query, other=0.0)
        delta = tl.load(deltas + place, mask=is_query, other=0.0)
        weights, to_logits = near_gradients(query, key, value, towards, log_sum, delta, is_query, is_key, SCALING)
        to_key += tl.dot(tl.trans(to_logits.to(query.dtype)), query, input_precision=PRODUCTS)
        to_value += tl.dot(tl.trans(weights.to(towards.dtype)), towards, input_precision=PRODUCTS)
    to_key *= SCALING

    key_mean, value_mean = block_mean(
        projected, metric, order, row_head, block, origin, length, N, E, U, H, W, D, TILE
    )
    key, value = load_centred(
        projected, metric, order, row_head, block, start, key_mean, value_mean, origin, length, N, E, U, H, W, D, TILE
    )
    share = SCALING / tl.maximum(length, 1).to(tl.float32)
    # One matrix at a time: two or three do not fit into the memory of a multiprocessor.
    to_key += 2 * share * tl.dot(key, load_square(to_covariance, row_head, 0, D), input_precision=PRECISION)
    to_value += share * tl.dot(key, load_square(to_covariance, row_head, 1, D), input_precision=PRECISION)
    to_key += share * tl.dot(value, load_transposed(to_covariance, row_head, 1, D), input_precision=PRECISION)
    mean_place = to_means + (row_head.to(tl.int64) * K + block) * 2 * D + tl.arange(0, D)
    divisor = tl.maximum(count, 1).to(tl.float32)
    to_key = tl.where(is_key[:, None], to_key + tl.load(mean_place)[None, :] / divisor, 0.0)
    to_value = tl.where(is_key[:, None], to_value + tl.load(mean_place + D)[None, :] / divisor, 0.0)

    store_columns(to_projected, tokens, is_place, stride, offset + E, to_key, E, D)
    store_columns(to_projected, tokens, is_place, stride, offset + 2 * E, to_value, E + U, D)
    store_metric_columns(to_units, (tokens * H + head) * 2 + 1, is_place, to_key, E, U, D)


@triton.jit(do_not_specialize=["num_tokens"])
def metric_gradients_kernel(
    metric, metric_scale, to_units, to_metric, to_scale, num_tokens,
    E: tl.constexpr, U: tl.constexpr, H: tl.constexpr, D: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Write the gradient of the metric of some tokens, from those of all heads, and what they add to its scales'."""
    tokens = tl.program_id(0).to(tl.int64) * TILE + tl.arange(0, TILE)
    is_token = tokens < num_tokens
    vector = load_columns(metric, tokens, is_token, U, 0, U, D).to(tl.float32)
    length = tl.maximum(tl.sqrt(tl.sum(vector * vector, axis=1)), SHORTEST)
    unit = vector / length[:, None]
    to_unit = tl.zeros([TILE, D], tl.float32)
    for head in range(H):
        scale = tl.load(metric_scale + head).to(tl.float32) * E**0.5
        to_query = load_columns(to_units, tokens, is_token, H * 2 * U, head * 2 * U, U, D)
        to_unit += to_query * scale + load_columns(to_units, tokens, is_token, H * 2 * U, (head * 2 + 1) * U, U, D)
        tl.store(to_scale + tl.program_id(0) * H + head, tl.sum(to_query * unit) * E**0.5)
    to_vector = (to_unit - unit * tl.sum(to_unit * unit, axis=1)[:, None]) / length[:, None]
    store_columns(to_metric, tokens, is_token, U, 0, to_vector, U, D)

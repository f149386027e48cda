// Sentences under generation: reading sources, and one step of the decoder for rows of any sentences.
//
// Every sentence has its own keys and values: of its source, laid out once and met by all its beams, and of what has been
// written. The latter are blocks, one for each position, with a row for each beam there was; who continues whom is kept
// as numbers of rows. So sentences come and go without moving anything, and nothing is padded.

#pragma once

#include <cstdlib>
#include <memory>
#include <new>
#include <vector>

#include "model.h"

namespace pellucid {

// Memory that is kept between uses and begins as zeros; glibc would give large pieces back to the system every time.
template <class T>
class Buffer {
   public:
    T* need(size_t count) {
        if (count > size_) {
            const size_t wanted = round_up(std::max(count, size_ + size_ / 2) * sizeof(T), 64);
            T* fresh = static_cast<T*>(std::aligned_alloc(64, wanted));
            if (!fresh) throw std::bad_alloc();
            std::memset(static_cast<void*>(fresh), 0, wanted);
            std::free(data_);
            data_ = fresh;
            size_ = wanted / sizeof(T);
        }
        return data_;
    }
    size_t bytes() const { return size_ * sizeof(T); }
    Buffer() = default;
    Buffer(Buffer&& other) noexcept : data_(other.data_), size_(other.size_) { other.data_ = nullptr, other.size_ = 0; }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;
    ~Buffer() { std::free(data_); }

   private:
    T* data_ = nullptr;
    size_t size_ = 0;
};

template <class T>
struct Sentence {
    size_t positions = 0;  // of the source
    Buffer<T> source;      // keys and values of every layer
    size_t rows = 1;       // beams
    size_t length = 0;     // tokens written so far: the position of the next
    std::vector<T*> blocks;        // for each position written: [layers][rows then][keys and values]
    std::vector<uint32_t> widths;  // rows then
    std::vector<std::vector<uint32_t>> past;  // for each row, its row at each position written

    void start(size_t source_positions) {
        positions = source_positions;
        rows = 1, length = 0, chunk_ = 0, used_ = 0;
        blocks.clear(), widths.clear();
        past.assign(1, {});
    }

    void reorder(const std::vector<uint32_t>& parents) {
        std::vector<std::vector<uint32_t>> fresh;
        fresh.reserve(parents.size());
        for (const uint32_t parent : parents) fresh.push_back(past[parent]);
        past = std::move(fresh);
        rows = parents.size();
    }

    // Make room for one more position of every row.
    void grow(size_t numbers) {
        while (chunk_ < chunks_.size() && used_ + numbers > chunks_[chunk_].bytes() / sizeof(T)) ++chunk_, used_ = 0;
        if (chunk_ == chunks_.size()) chunks_.emplace_back().need(std::max<size_t>(numbers * 4, 4096)), used_ = 0;
        blocks.push_back(chunks_[chunk_].need(0) + used_);
        widths.push_back(static_cast<uint32_t>(rows));
        used_ += round_up(numbers, 32);
    }

    size_t cache_bytes() const {
        size_t sum = 0;
        for (const auto& chunk : chunks_) sum += chunk.bytes();
        return sum;
    }

   private:
    std::vector<Buffer<T>> chunks_;
    size_t chunk_ = 0, used_ = 0;
};

struct Positions {
    const float* source;  // [many, width], null where positions are not added
    const float* target;
};

// The rooms in which one thread computes.
struct Workspace {
    Buffer<float> states, normed, joined, context, inner, other_inner, scores, logits, scales, leasts;
    Buffer<uint8_t> bytes;
};

template <class T>
class Decoder {
   public:
    // stop: not 0 once reading is to end early; may be null.
    Decoder(const Model& model, Positions positions, const volatile int32_t* stop) : model_(model), positions_(positions), stop_(stop) {}

    // Read sources [count], tokens one after the other, and start their sentences. False: it was stopped.
    bool read(Sentence<T>* const* sentences, const int32_t* const* tokens, const size_t* lengths, size_t count) {
        size_t rows = 0;
        for (size_t s = 0; s < count; ++s) rows += lengths[s];
        float* states = room_.states.need(rows * model_.width);
        for (size_t s = 0, row = 0; s < count; ++s) {
            sentences[s]->start(lengths[s]);
            for (size_t p = 0; p < lengths[s]; ++p, ++row) embed(model_.source, tokens[s][p], p, positions_.source, row);
        }
        for (const EncoderLayer& layer : model_.encoder) {
            if (stopped()) return false;
            sublayer(layer.attention_norm, states, rows, [&](const float* from) {
                const float* joined = project(layer.queries_keys_values, from, model_.width, rows, room_.joined);
                attend_sources(joined, layer.queries_keys_values.outputs, lengths, count);
                add(layer.output, room_.context.need(0), rows, states);
            });
            sublayer(layer.feed_forward_norm, states, rows,
                     [&](const float* from) { feed_forward(layer.feed_forward, from, rows, states); });
        }
        const float* last = model_.sizes.pre ? norm_rows(model_.source.last_norm, states, rows) : states;
        if (stopped()) return false;
        keep_sources(sentences, last, lengths, count, rows);
        return true;
    }

    // One more token for every row of these sentences (sentence-major). Then take_logits gives what may follow.
    void step(Sentence<T>* const* sentences, size_t count, const int32_t* tokens) {
        const size_t entry = 2 * model_.self.key_width();
        size_t rows = 0;
        for (size_t s = 0; s < count; ++s) rows += sentences[s]->rows;
        float* states = room_.states.need(rows * model_.width);
        for (size_t s = 0, row = 0; s < count; ++s) {
            Sentence<T>& one = *sentences[s];
            one.grow(model_.decoder.size() * one.rows * entry);
            for (size_t r = 0; r < one.rows; ++r, ++row) {
                one.past[r].push_back(static_cast<uint32_t>(r));
                embed(model_.target, tokens[row], one.length, positions_.target, row);
            }
            ++one.length;
        }
        for (size_t number = 0; number < model_.decoder.size(); ++number) {
            const DecoderLayer& layer = model_.decoder[number];
            sublayer(layer.attention_norm, states, rows, [&](const float* from) {
                const float* joined = project(layer.queries_keys_values, from, model_.width, rows, room_.joined);
                attend_past(sentences, count, number, joined, layer.queries_keys_values.outputs, rows);
                add(layer.output, room_.context.need(0), rows, states);
            });
            sublayer(layer.cross_norm, states, rows, [&](const float* from) {
                const float* queries = project(layer.cross_queries, from, model_.width, rows, room_.joined);
                attend_source(sentences, count, number, queries, layer.cross_queries.outputs, rows);
                add(layer.cross_output, room_.context.need(0), rows, states);
            });
            sublayer(layer.feed_forward_norm, states, rows,
                     [&](const float* from) { feed_forward(layer.feed_forward, from, rows, states); });
        }
        last_ = model_.sizes.pre ? norm_rows(model_.target.last_norm, states, rows) : states;
        if (model_.reals.output_scale != 1.0) {
            float* scaled = const_cast<float*>(last_);
            const Floats16 factor = _mm512_set1_ps(static_cast<float>(model_.reals.output_scale));
            for (size_t i = 0; i < rows * model_.width; i += 16) store16(scaled + i, _mm512_mul_ps(load16(scaled + i), factor));
        }
        rows_ = rows;
    }

    size_t rows() const { return rows_; }

    // Logits of each row in turn: take(row, logits [V padded]); padding is -inf.
    template <class Take>
    void take_logits(const Take& take) {
        const size_t stride = model_.output.outputs, at_once = 4 * TILE_ROWS;  // few, so that they are still in L2
        float* logits = room_.logits.need(std::min(at_once, rows_) * stride);
        const Rows all = prepared(model_.output, last_, model_.width, rows_);
        for (size_t first = 0; first < rows_; first += at_once) {
            const size_t count = std::min(at_once, rows_ - first);
            Rows part = all;
            part.values += first * all.stride;
            if (part.bytes) part.bytes += first * all.bytes_stride, part.scale += first, part.least += first;
            product(model_.output, part, count, Store{logits, stride});
            for (size_t r = 0; r < count; ++r) take(first + r, logits + r * stride);
        }
    }

   private:
    const Model& model_;
    const Positions positions_;
    const volatile int32_t* stop_;
    Workspace room_;
    const float* last_ = nullptr;
    size_t rows_ = 0;
    std::vector<const T*> pointers_;

    bool stopped() const { return stop_ && *stop_; }

    void embed(const Stack& stack, int64_t token, size_t position, const float* positions, size_t row) {
        float* to = room_.states.need(0) + row * model_.width;
        model_.embed(stack.table, token, positions ? positions + position * model_.width : nullptr, to);
        if (model_.sizes.embedding_norm) normalize(stack.embedding_norm, to, to, model_.sizes.hidden);
    }

    const float* norm_rows(const Norm& norm, const float* from, size_t rows) {
        float* to = room_.normed.need(rows * model_.width);
        for (size_t r = 0; r < rows; ++r) normalize(norm, from + r * model_.width, to + r * model_.width, model_.sizes.hidden);
        return to;
    }

    // Residual connection and norm around a block, which adds what it computes to the states.
    template <class Block>
    void sublayer(const Norm& norm, float* states, size_t rows, const Block& block) {
        if (model_.sizes.pre) {
            block(norm_rows(norm, states, rows));
        } else {
            block(states);
            for (size_t r = 0; r < rows; ++r)
                normalize(norm, states + r * model_.width, states + r * model_.width, model_.sizes.hidden);
        }
    }

    // Rows as a product wants them.
    Rows prepared(const Linear& linear, const float* values, size_t stride, size_t rows) {
        Rows prepared{values, stride, nullptr, 0, nullptr, nullptr};
        if (linear.scale) {
            uint8_t* bytes = room_.bytes.need(rows * linear.inputs);
            float *scales = room_.scales.need(rows), *leasts = room_.leasts.need(rows);
            for (size_t r = 0; r < rows; ++r)
                round_to_bytes(values + r * stride, linear.inputs, bytes + r * linear.inputs, scales[r], leasts[r]);
            prepared = {values, stride, bytes, linear.inputs, scales, leasts};
        }
        return prepared;
    }

    const float* project(const Linear& linear, const float* from, size_t stride, size_t rows, Buffer<float>& room) {
        float* to = room.need(rows * linear.outputs);
        product(linear, prepared(linear, from, stride, rows), rows, Store{to, linear.outputs});
        return to;
    }

    void add(const Linear& linear, const float* from, size_t rows, float* states) {
        product(linear, prepared(linear, from, linear.inputs, rows), rows, Add{states, model_.width});
    }

    void feed_forward(const FeedForward& block, const float* from, size_t rows, float* states) {
        const size_t stride = block.up.outputs;
        float* inner = room_.inner.need(rows * stride);
        const Rows given = prepared(block.up, from, model_.width, rows);
        const Linear& first = model_.sizes.gated ? block.gate : block.up;
        switch (static_cast<Activation>(model_.sizes.activation)) {
            case Activation::relu: product(first, given, rows, Activated<Activation::relu>{inner, stride}); break;
            case Activation::gelu: product(first, given, rows, Activated<Activation::gelu>{inner, stride}); break;
            case Activation::gelu_tanh: product(first, given, rows, Activated<Activation::gelu_tanh>{inner, stride}); break;
            case Activation::silu: product(first, given, rows, Activated<Activation::silu>{inner, stride}); break;
        }
        if (model_.sizes.gated) product(block.up, given, rows, Multiply{inner, stride});
        add(block.down, inner, rows, states);
    }

    float* new_context(size_t rows, const Heads& heads) {
        return room_.context.need(rows * round_up(heads.width(), PANEL));
    }

    void attend_sources(const float* joined, size_t stride, const size_t* lengths, size_t count) {
        const Heads& heads = model_.self;
        size_t rows = 0, longest = 0;
        for (size_t s = 0; s < count; ++s) rows += lengths[s], longest = std::max(longest, lengths[s]);
        const size_t width = round_up(heads.width(), PANEL);
        float* context = new_context(rows, heads);
        float* scores = room_.scores.need(6 * round_up(longest, 16) + shared_size(heads, longest));
        float* shared = scores + 6 * round_up(longest, 16);
        for (size_t s = 0, row = 0; s < count; row += lengths[s++]) {
            const float* queries = joined + row * stride;
            const float* keys = queries + heads.width();
            share(heads, keys, keys + heads.key_width(), stride, lengths[s], shared);
            // Work grows with the square of the length: in parts, so that a long source can be stopped.
            for (size_t first = 0; first < lengths[s] && !stopped(); first += 192) {
                const size_t some = std::min<size_t>(192, lengths[s] - first);
                attend_shared(heads, queries + first * stride, stride, some, shared, lengths[s], scores,
                              context + (row + first) * width, width);
            }
        }
    }

    // Keys and values of the source in every layer of the decoder.
    void keep_sources(Sentence<T>* const* sentences, const float* states, const size_t* lengths, size_t count, size_t rows) {
        const Heads& heads = model_.cross;
        for (size_t s = 0; s < count; ++s)
            sentences[s]->source.need(model_.decoder.size() * shared_size(heads, lengths[s]));
        for (size_t number = 0; number < model_.decoder.size(); ++number) {
            const Linear& linear = model_.decoder[number].cross_keys_values;
            const float* joined = project(linear, states, model_.width, rows, room_.joined);
            for (size_t s = 0, row = 0; s < count; row += lengths[s++]) {
                T* shared = sentences[s]->source.need(0) + number * shared_size(heads, lengths[s]);
                const float* keys = joined + row * linear.outputs;
                share(heads, keys, keys + heads.key_width(), linear.outputs, lengths[s], shared);
            }
        }
    }

    void attend_past(Sentence<T>* const* sentences, size_t count, size_t layer, const float* joined, size_t stride, size_t rows) {
        const Heads& heads = model_.self;
        const size_t width = round_up(heads.width(), PANEL), entry = 2 * heads.key_width();
        float* context = new_context(rows, heads);
        for (size_t s = 0, row = 0; s < count; ++s) {
            const Sentence<T>& one = *sentences[s];
            float* scores = room_.scores.need(round_up(one.length, 16));
            T* fresh = one.blocks[one.length - 1] + layer * one.rows * entry;
            for (size_t r = 0; r < one.rows; ++r) {
                const float* keys = joined + (row + r) * stride + heads.width();
                for (size_t i = 0; i < entry; i += 16) store16(fresh + r * entry + i, load16(keys + i));
            }
            pointers_.resize(one.length);
            for (size_t r = 0; r < one.rows; ++r, ++row) {
                for (size_t p = 0; p < one.length; ++p)
                    pointers_[p] = one.blocks[p] + (layer * one.widths[p] + one.past[r][p]) * entry;
                attend(joined + row * stride, one.length, scores, context + row * width);
            }
        }
    }

    void attend(const float* query, size_t length, float* scores, float* out) {
        const T* const* rows = pointers_.data();
        switch (model_.self.size / 16) {
            case 1: return attend_own<1>(model_.self, query, rows, length, scores, out);
            case 2: return attend_own<2>(model_.self, query, rows, length, scores, out);
            case 3: return attend_own<3>(model_.self, query, rows, length, scores, out);
            case 4: return attend_own<4>(model_.self, query, rows, length, scores, out);
            case 5: return attend_own<5>(model_.self, query, rows, length, scores, out);
            case 6: return attend_own<6>(model_.self, query, rows, length, scores, out);
            case 7: return attend_own<7>(model_.self, query, rows, length, scores, out);
            default: return attend_own<8>(model_.self, query, rows, length, scores, out);
        }
    }

    void attend_source(Sentence<T>* const* sentences, size_t count, size_t layer, const float* queries, size_t stride, size_t rows) {
        const Heads& heads = model_.cross;
        const size_t width = round_up(heads.width(), PANEL);
        float* context = new_context(rows, heads);
        for (size_t s = 0, row = 0; s < count; row += sentences[s++]->rows) {
            Sentence<T>& one = *sentences[s];
            float* scores = room_.scores.need(6 * round_up(one.positions, 16));
            const T* shared = one.source.need(0) + layer * shared_size(heads, one.positions);
            attend_shared(heads, queries + row * stride, stride, one.rows, shared, one.positions, scores,
                          context + row * width, width);
        }
    }
};

}  // namespace pellucid

// Beam search of one sentence, of which width 1 is greedy search: what is live, what is finished, what may still win.
//
// The counterpart of decoding/beams.py and of the part of decoding/search.py that needs no random numbers and no look
// back; rule for rule the same, and tests compare the two. Sums of log p are float64, what ranks choices is float32.

#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "rows.h"

namespace pellucid {

enum class Penalty : int64_t { average, power, gnmt, none };
enum class Stop : int64_t { exact, first_k, top, heuristic };

// In the order of `SEARCH_NUMBERS` in engine.py.
struct SearchNumbers {
    int64_t beam, best, end, penalty, stop, full, least_length, free_forced, force_end, first, workers, sentences_at_once, most_bytes;
};

struct SearchSettings {
    SearchNumbers numbers;
    double alpha;
    std::vector<int32_t> forbidden;
    bool full() const { return numbers.full && numbers.beam > 1; }  // a beam of 1 ends with its end token
    size_t width() const { return static_cast<size_t>(numbers.beam) * (full() ? 2 : 1); }  // choices of a step
    size_t kept() const {
        const auto stop = static_cast<Stop>(numbers.stop);
        const bool all = numbers.full || stop == Stop::first_k || stop == Stop::heuristic;
        return static_cast<size_t>(all ? numbers.beam : numbers.best);
    }
    double penalty(int64_t length) const {
        switch (static_cast<Penalty>(numbers.penalty)) {
            case Penalty::average: return static_cast<double>(length);
            case Penalty::power: return std::pow(static_cast<double>(length), alpha);
            case Penalty::gnmt: return std::pow((5.0 + static_cast<double>(length)) / 6.0, alpha);
            default: return 1.0;
        }
    }
};

struct Choice {
    float sum;     // what it is ranked by
    uint32_t row;  // within its beam
    int32_t token;
    float logprob;        // what is added up
    float model_logprob;  // as the model gave it
};

inline bool is_better(const Choice& one, const Choice& other) {
    if (one.sum != other.sum) return one.sum > other.sum;
    return one.row != other.row ? one.row < other.row : one.token < other.token;
}

struct Hypothesis {
    std::vector<int32_t> tokens;
    std::vector<float> logprobs;
    double score;
    bool ended;  // by the end token, which is not among the tokens; else cut by the limit
};

constexpr float NOTHING = -std::numeric_limits<float>::infinity();

class Beam {
   public:
    Beam(const SearchSettings& settings, int64_t limit, std::vector<int32_t> prefix)
        : settings_(settings), limit_(limit), prefix_(std::move(prefix)) {
        const int64_t longest = settings.alpha >= 0 ? limit : 1;
        largest_penalty_ = settings.penalty(longest);
    }

    std::vector<int32_t> tokens;    // what each row is fed next
    std::vector<uint32_t> parents;  // the row that each row continues
    size_t rows() const { return totals_.size(); }
    int64_t length() const { return length_; }
    int64_t settled() const { return settled_; }

    // What a row's log p is ranked with: its total below the best row's.
    float offset(size_t row) const {
        double best = totals_[0];
        for (const double total : totals_) best = std::max(best, total);
        return static_cast<float>(totals_[row] - best);
    }

    // Look through the logits [V, padded with -inf] of the next row; false: there is a NaN.
    bool look(size_t row, float* logits, size_t vocabulary);

    // All rows have been looked through: choose. False: the search of this sentence has ended.
    bool advance();

    std::vector<Hypothesis> hypotheses() const;

   private:
    struct Step {
        std::vector<uint32_t> parents;
        std::vector<int32_t> tokens;
        std::vector<float> logprobs;
    };
    struct Finished {
        double score;
        int64_t address;
    };

    const SearchSettings& settings_;
    const int64_t limit_;
    const std::vector<int32_t> prefix_;
    double largest_penalty_;
    int64_t length_ = 0, settled_ = 0;
    std::vector<double> totals_{0.0};
    std::vector<uint32_t> slots_{0};
    std::vector<Choice> choices_;
    std::vector<double> live_totals_;  // of the last step's choices; -inf where not live
    std::vector<Step> history_;
    std::vector<Finished> best_;
    std::vector<float> maxima_, ordered_;

    const int32_t* forced() const {
        if (settings_.numbers.force_end && length_ + 1 == limit_) {
            end_ = static_cast<int32_t>(settings_.numbers.end);
            return &end_;
        }
        return static_cast<size_t>(length_) < prefix_.size() ? &prefix_[length_] : nullptr;
    }
    mutable int32_t end_ = 0;

    void keep_best(const std::vector<double>& totals);
    bool has_ended(bool finished_first) const;
    Hypothesis written(double score, int64_t address) const;
};

// Largest of every 64 logits; gives the largest of all.
inline float block_maxima(const float* logits, size_t padded, float* maxima) {
    float largest = NOTHING;
    for (size_t block = 0; block < padded; block += 64) {
        const float* from = logits + block;
        const float most = _mm512_reduce_max_ps(_mm512_max_ps(
            _mm512_max_ps(load16(from), load16(from + 16)), _mm512_max_ps(load16(from + 32), load16(from + 48))));
        maxima[block / 64] = most;
        largest = std::max(largest, most);
    }
    return largest;
}

inline float log_sum_exp(const float* logits, size_t padded, float largest) {
    const Floats16 top = _mm512_set1_ps(largest);
    Floats16 sums[4];
    for (auto& sum : sums) sum = _mm512_setzero_ps();
    for (size_t i = 0; i < padded; i += 64)
        for (size_t j = 0; j < 4; ++j)
            sums[j] = _mm512_add_ps(sums[j], exponential(_mm512_sub_ps(load16(logits + i + 16 * j), top)));
    const Floats16 sum = _mm512_add_ps(_mm512_add_ps(sums[0], sums[1]), _mm512_add_ps(sums[2], sums[3]));
    return largest + std::log(_mm512_reduce_add_ps(sum));
}

inline bool Beam::look(size_t row, float* logits, size_t vocabulary) {
    const size_t padded = round_up(vocabulary, 64), blocks = padded / 64, wanted = settings_.width();
    maxima_.resize(round_up(blocks, 16));
    const float largest = block_maxima(logits, padded, maxima_.data());
    const float all = log_sum_exp(logits, padded, largest);
    if (std::isnan(all) || std::isinf(all)) return false;
    const float start = offset(row);
    if (const int32_t* token = forced()) {
        const float model = std::min(logits[*token] - all, 0.0f);
        const float counted = settings_.numbers.free_forced ? 0.0f : model;
        if (counted > NOTHING) choices_.push_back({counted + start, static_cast<uint32_t>(row), *token, counted, model});
        return true;
    }
    const auto forbid = [&](int32_t token) {
        logits[token] = NOTHING;
        const float* from = logits + token / 64 * 64;
        maxima_[token / 64] = *std::max_element(from, from + 64);
    };
    for (const int32_t token : settings_.forbidden) forbid(token);
    if (length_ < settings_.numbers.least_length) forbid(static_cast<int32_t>(settings_.numbers.end));
    // At least `wanted` tokens reach the wanted-th largest maximum; what does not reach it cannot be among the best, nor
    // what does not reach the wanted-th best of the rows before. Equal sums are kept, and are decided by place.
    float least = NOTHING;
    if (blocks > wanted) {
        ordered_.assign(maxima_.begin(), maxima_.begin() + blocks);
        const auto place = ordered_.begin() + (wanted - 1);
        if (wanted == 1)
            *place = *std::max_element(ordered_.begin(), ordered_.end());
        else
            std::nth_element(ordered_.begin(), place, ordered_.end(), std::greater<float>());
        least = *place - all + start;
    }
    if (choices_.size() >= wanted) {
        std::nth_element(choices_.begin(), choices_.begin() + (wanted - 1), choices_.end(), is_better);
        choices_.resize(wanted);
        least = std::max(least, choices_[wanted - 1].sum);
    }
    const Floats16 shared = _mm512_set1_ps(all), from = _mm512_set1_ps(start), bound = _mm512_set1_ps(least);
    for (size_t block = 0; block < blocks; ++block) {
        if (maxima_[block] - all + start < least || maxima_[block] == NOTHING) continue;
        for (size_t i = block * 64; i < block * 64 + 64; i += 16) {
            const Floats16 logprobs = _mm512_sub_ps(load16(logits + i), shared);
            const Floats16 sums = _mm512_add_ps(logprobs, from);
            unsigned mask = _mm512_cmp_ps_mask(sums, bound, _CMP_GE_OQ);
            for (; mask; mask &= mask - 1) {
                const size_t place = i + static_cast<size_t>(__builtin_ctz(mask));
                const float logprob = logits[place] - all, capped = std::min(logprob, 0.0f);
                if (logprob == NOTHING) continue;
                choices_.push_back({logprob + start, static_cast<uint32_t>(row), static_cast<int32_t>(place), capped, capped});
            }
        }
    }
    return true;
}

inline bool Beam::advance() {
    const size_t width = settings_.width(), beam = static_cast<size_t>(settings_.numbers.beam);
    std::sort(choices_.begin(), choices_.end(), is_better);
    if (choices_.size() > width) choices_.resize(width);
    const size_t count = choices_.size();
    Step step;
    std::vector<double> finished(count, NOTHING);
    std::vector<double> totals(count);
    live_totals_.assign(count, NOTHING);
    const int32_t end = static_cast<int32_t>(settings_.numbers.end);
    ++length_;
    size_t live = 0;
    bool finished_first = false;
    for (size_t i = 0; i < count; ++i) {
        const Choice& choice = choices_[i];
        totals[i] = totals_[choice.row] + static_cast<double>(choice.logprob);
        step.parents.push_back(slots_[choice.row]);
        step.tokens.push_back(choice.token);
        step.logprobs.push_back(choice.model_logprob);
        const bool ranks = !settings_.full() || i < beam;
        if (choice.token == end) {
            if (ranks) finished[i] = totals[i];
            if (i == 0) finished_first = ranks;
        } else if (!settings_.full() || live < beam) {
            ++live;
            live_totals_[i] = totals[i];
            if (settings_.numbers.full && length_ == limit_ && i < beam) finished[i] = totals[i];  // cut ones compete
        }
    }
    history_.push_back(std::move(step));
    keep_best(finished);
    const bool over = has_ended(finished_first);
    std::vector<double> kept;
    std::vector<uint32_t> slots;
    tokens.clear(), parents.clear();
    for (size_t i = 0; i < count; ++i) {
        if (live_totals_[i] == NOTHING) continue;
        kept.push_back(live_totals_[i]);
        slots.push_back(static_cast<uint32_t>(i));
        tokens.push_back(choices_[i].token);
        parents.push_back(choices_[i].row);
    }
    choices_.clear();
    if (over) return false;
    totals_ = std::move(kept);
    slots_ = std::move(slots);
    return true;
}

inline void Beam::keep_best(const std::vector<double>& totals) {
    const double penalty = settings_.penalty(length_);
    const auto first = (length_ - 1) * static_cast<int64_t>(settings_.width());
    bool any = false;
    for (size_t i = 0; i < totals.size(); ++i)
        if (totals[i] != NOTHING) best_.push_back({totals[i] / penalty, first + static_cast<int64_t>(i)}), any = true;
    if (!any) return;
    std::stable_sort(best_.begin(), best_.end(), [](const Finished& one, const Finished& other) { return one.score > other.score; });
    if (best_.size() > settings_.kept()) best_.resize(settings_.kept());
    int64_t latest = 0;
    for (const Finished& one : best_) latest = std::max(latest, one.address);
    settled_ = latest / static_cast<int64_t>(settings_.width()) + 1;
}

inline bool Beam::has_ended(bool finished_first) const {
    double live = NOTHING;
    for (const double total : live_totals_) live = std::max(live, total);
    if (live == NOTHING || length_ == limit_) return true;
    const double worst = best_.size() == settings_.kept() ? best_.back().score : NOTHING;
    switch (static_cast<Stop>(settings_.numbers.stop)) {
        case Stop::exact: return live / largest_penalty_ <= worst;
        case Stop::first_k: return worst > NOTHING;
        case Stop::top: return finished_first;
        default: return worst > NOTHING && live / settings_.penalty(length_) <= worst;
    }
}

inline std::vector<Hypothesis> Beam::hypotheses() const {
    std::vector<Hypothesis> found;
    std::vector<Finished> ranked = best_;
    if (ranked.empty()) {
        const double penalty = settings_.penalty(length_);
        const auto first = (length_ - 1) * static_cast<int64_t>(settings_.width());
        for (size_t i = 0; i < live_totals_.size(); ++i)
            if (live_totals_[i] != NOTHING) ranked.push_back({live_totals_[i] / penalty, first + static_cast<int64_t>(i)});
        std::stable_sort(ranked.begin(), ranked.end(), [](const Finished& one, const Finished& other) { return one.score > other.score; });
    }
    const size_t count = std::min({ranked.size(), settings_.kept(), static_cast<size_t>(settings_.numbers.best)});
    for (size_t i = 0; i < count; ++i) found.push_back(written(ranked[i].score, ranked[i].address));
    return found;
}

inline Hypothesis Beam::written(double score, int64_t address) const {
    const auto width = static_cast<int64_t>(settings_.width());
    const int64_t last = address / width;
    size_t slot = static_cast<size_t>(address % width);
    Hypothesis one;
    one.score = score;
    one.tokens.resize(last + 1);
    one.logprobs.resize(last + 1);
    for (int64_t i = last; i >= 0; --i) {
        one.tokens[i] = history_[i].tokens[slot];
        one.logprobs[i] = history_[i].logprobs[slot];
        slot = history_[i].parents[slot];
    }
    one.ended = one.tokens.back() == settings_.numbers.end;
    if (one.ended) one.tokens.pop_back();
    return one;
}

}  // namespace pellucid

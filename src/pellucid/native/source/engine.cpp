// What Python calls (through ctypes): plain numbers and pointers in, plain arrays out. Calls may come from several threads;
// a model is only read. No exception leaves this file: calls give a status, or null where memory ran out.

#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>

#include "search.h"
#include "sentences.h"

namespace pellucid {
namespace {

enum Status : int64_t { DONE = 0, NOT_A_NUMBER = 1, STOPPED = 2, NO_MEMORY = 3 };

constexpr size_t READ_AT_ONCE = 192;  // source positions: few, so that a layer's activations stay in L2

struct Sources {
    const int32_t* tokens;
    const int64_t* starts;  // [count + 1]
    const int64_t* limits;
    const int32_t* prefixes;
    const int64_t* prefix_starts;  // [count + 1]
    size_t count;
};

struct Counts {
    int64_t steps = 0, rows = 0, sentence_steps = 0, settled_steps = 0, most_bytes = 0;  // most_bytes: of all workers
};

struct Results {
    std::vector<std::vector<Hypothesis>> found;
    Counts counts;
};

// ---- a batch that Python searches step by step

class Batch {
   public:
    virtual ~Batch() = default;
    virtual void step(const int32_t* tokens, float* logprobs) = 0;
    virtual void reorder(const int64_t* parents, size_t count) = 0;
    virtual void select(const int64_t* kept, size_t count) = 0;
    virtual size_t rows() const = 0;
    virtual void bytes(int64_t* source, int64_t* past) const = 0;
};

template <class T>
class TypedBatch : public Batch {
   public:
    TypedBatch(const Model& model, Positions positions, const Sources& sources, const volatile int32_t* stop)
        : model_(model), decoder_(model, positions, stop) {
        for (size_t first = 0; first < sources.count && !(stop && *stop);) first = read(sources, first);
    }

    void step(const int32_t* tokens, float* logprobs) override {
        decoder_.step(live_.data(), live_.size(), tokens);
        const auto vocabulary = static_cast<size_t>(model_.sizes.target_vocabulary);
        decoder_.take_logits([&](size_t row, float* logits) {
            const size_t padded = model_.output.outputs;
            std::vector<float>& maxima = maxima_;
            maxima.resize(padded / 64);
            const Floats16 all = _mm512_set1_ps(log_sum_exp(logits, padded, block_maxima(logits, padded, maxima.data())));
            float* to = logprobs + row * vocabulary;
            for (size_t i = 0; i < vocabulary; i += 16)
                _mm512_mask_storeu_ps(to + i, first_lanes(std::min<size_t>(16, vocabulary - i)), _mm512_sub_ps(load16(logits + i), all));
        });
    }

    void reorder(const int64_t* parents, size_t count) override {
        const size_t beams = live_.empty() ? 0 : count / live_.size();
        size_t before = 0;
        for (size_t s = 0; s < live_.size(); ++s) {
            std::vector<uint32_t> own;
            for (size_t r = 0; r < beams; ++r) own.push_back(static_cast<uint32_t>(parents[s * beams + r] - before));
            before += live_[s]->rows;
            live_[s]->reorder(own);
        }
    }

    void select(const int64_t* kept, size_t count) override {
        std::vector<Sentence<T>*> left;
        for (size_t i = 0; i < count; ++i) left.push_back(live_[kept[i]]);
        live_ = std::move(left);
    }

    size_t rows() const override {
        size_t sum = 0;
        for (const auto* one : live_) sum += one->rows;
        return sum;
    }

    void bytes(int64_t* source, int64_t* past) const override {
        *source = *past = 0;
        for (const auto* one : live_) *source += one->source.bytes(), *past += one->cache_bytes();
    }

   private:
    const Model& model_;
    Decoder<T> decoder_;
    std::deque<Sentence<T>> all_;
    std::vector<Sentence<T>*> live_;
    std::vector<float> maxima_;

    size_t read(const Sources& sources, size_t first) {
        std::vector<const int32_t*> tokens;
        std::vector<size_t> lengths;
        const size_t begin = live_.size();
        size_t positions = 0, next = first;
        for (; next < sources.count; ++next) {
            const auto length = static_cast<size_t>(sources.starts[next + 1] - sources.starts[next]);
            if (next > first && positions + length > READ_AT_ONCE) break;
            positions += length;
            tokens.push_back(sources.tokens + sources.starts[next]);
            lengths.push_back(length);
            live_.push_back(&all_.emplace_back());
        }
        decoder_.read(live_.data() + begin, tokens.data(), lengths.data(), lengths.size());
        return next;
    }
};

// ---- searches that run here from beginning to end

struct Job {
    const Model& model;
    Positions positions;
    Sources sources;
    SearchSettings settings;
    const volatile int32_t* stop;
    Results& results;
    size_t workers;
    size_t most;  // bytes of keys and values, of all workers; one sentence may take more, when it is the only one
    std::atomic<int64_t> status{DONE};
    std::mutex turn;  // for what follows
    std::condition_variable freed;
    size_t next = 0;  // the first sentence that nobody has taken
    size_t held = 0;  // bytes that sentences may come to take, and those kept for others
    size_t taken = 0, most_taken = 0;  // bytes that they do take
};

// One thread's share of a job: takes sentences as others end, so that its batch stays full.
template <class T>
class Worker {
   public:
    explicit Worker(Job& job) : job_(job), decoder_(job.model, job.positions, job.stop) {}
    Worker(const Worker&) = delete;

    ~Worker() {
        std::lock_guard<std::mutex> lock(job_.turn);
        job_.held -= held_ + spare_bytes_;
        job_.taken -= taken_;
        job_.freed.notify_all();
    }

    void run() {
        while (job_.status == DONE) {
            if (job_.stop && *job_.stop) job_.status = STOPPED;
            take();
            if (live_.empty() || job_.status != DONE) break;
            advance();
        }
        std::lock_guard<std::mutex> lock(job_.turn);
        Counts& sum = job_.results.counts;
        sum.steps += counts_.steps, sum.rows += counts_.rows;
        sum.sentence_steps += counts_.sentence_steps, sum.settled_steps += counts_.settled_steps;
        sum.most_bytes = static_cast<int64_t>(job_.most_taken);
    }

   private:
    struct Live {
        size_t index, held;
        std::unique_ptr<Sentence<T>> sentence;
        std::unique_ptr<Beam> beam;
    };

    Job& job_;
    Decoder<T> decoder_;
    std::vector<Live> live_;
    std::vector<std::unique_ptr<Sentence<T>>> spare_;
    size_t held_ = 0, spare_bytes_ = 0;  // of live and spare sentences; both are in job_.held
    size_t taken_ = 0;                   // of both, as it was last counted; in job_.taken
    Counts counts_;

    void take() {
        const auto room = static_cast<size_t>(job_.settings.numbers.sentences_at_once);
        // Reading a few sources at a time costs more than rows that stay empty for some steps.
        if (!live_.empty() && live_.size() + std::max<size_t>(1, room / 8) > room) return;
        std::vector<size_t> taken;
        {
            std::unique_lock<std::mutex> lock(job_.turn);
            while (job_.status == DONE && job_.next < job_.sources.count) {
                const size_t left = job_.sources.count - job_.next;
                const size_t most = std::min(room - live_.size(), (left + job_.workers - 1) / job_.workers);
                while (taken.size() < most && fits(needed_by(job_.next), live_.empty() && taken.empty())) {
                    held_ += needed_by(job_.next);
                    job_.held += needed_by(job_.next);
                    taken.push_back(job_.next++);
                }
                if (!live_.empty() || !taken.empty()) break;
                job_.freed.wait(lock);  // others hold what there is
            }
        }
        for (size_t first = 0; first < taken.size() && job_.status == DONE;) first = read(taken, first);
    }

    // Whether a sentence may be taken: within this worker's share, or anywhere within the whole by one that has nothing.
    bool fits(size_t needed, bool has_nothing) {
        const auto fit = [&] {
            const size_t share = has_nothing ? job_.most : job_.most / job_.workers;
            return held_ + spare_bytes_ + needed <= share && job_.held + needed <= job_.most;
        };
        if (fit()) return true;
        spare_.clear();
        job_.held -= spare_bytes_;
        job_.taken -= spare_bytes_;
        taken_ -= spare_bytes_;
        if (spare_bytes_) job_.freed.notify_all();
        spare_bytes_ = 0;
        return fit() || job_.held == 0;
    }

    static size_t bytes_of(const Sentence<T>& one) { return one.source.bytes() + one.cache_bytes(); }

    size_t length_of(size_t index) const {
        return static_cast<size_t>(job_.sources.starts[index + 1] - job_.sources.starts[index]);
    }

    // Bytes that a sentence comes to take if it is written to its limit: keys and values, who continues whom.
    size_t needed_by(size_t index) const {
        const size_t layers = job_.model.decoder.size(), entry = 2 * layers * job_.model.self.key_width() * sizeof(T);
        const size_t source = layers * shared_size(job_.model.cross, length_of(index)) * sizeof(T);
        const size_t rows = static_cast<size_t>(job_.settings.numbers.beam) * static_cast<size_t>(job_.sources.limits[index]);
        return source + rows * (entry + 32);
    }

    size_t read(const std::vector<size_t>& taken, size_t first) {
        std::vector<const int32_t*> tokens;
        std::vector<size_t> lengths;
        std::vector<Sentence<T>*> fresh;
        size_t positions = 0, next = first;
        for (; next < taken.size(); ++next) {
            const size_t index = taken[next], length = length_of(index);
            if (next > first && positions + length > READ_AT_ONCE) break;
            positions += length;
            tokens.push_back(job_.sources.tokens + job_.sources.starts[index]);
            lengths.push_back(length);
            size_t held = needed_by(index);
            if (spare_.empty()) {
                spare_.push_back(std::make_unique<Sentence<T>>());
            } else {  // what it has already it need not take
                const size_t there = bytes_of(*spare_.back());
                std::lock_guard<std::mutex> lock(job_.turn);
                job_.held -= std::min(there, held);
                held_ += std::max(there, held) - held;
                spare_bytes_ -= there;
                held = std::max(there, held);
            }
            const int32_t* prefixes = job_.sources.prefixes;
            std::vector<int32_t> prefix(prefixes + job_.sources.prefix_starts[index], prefixes + job_.sources.prefix_starts[index + 1]);
            auto beam = std::make_unique<Beam>(job_.settings, job_.sources.limits[index], std::move(prefix));
            beam->tokens.assign(1, static_cast<int32_t>(job_.settings.numbers.first));
            fresh.push_back(spare_.back().get());
            live_.push_back({index, held, std::move(spare_.back()), std::move(beam)});
            spare_.pop_back();
        }
        if (!decoder_.read(fresh.data(), tokens.data(), lengths.data(), lengths.size())) job_.status = STOPPED;
        return next;
    }

    void advance() {
        std::vector<Sentence<T>*> sentences;
        std::vector<int32_t> tokens;
        std::vector<Live*> owners;
        std::vector<uint32_t> places;
        for (Live& one : live_) {
            sentences.push_back(one.sentence.get());
            for (size_t r = 0; r < one.beam->rows(); ++r) {
                tokens.push_back(one.beam->tokens[r]);
                owners.push_back(&one);
                places.push_back(static_cast<uint32_t>(r));
            }
        }
        decoder_.step(sentences.data(), sentences.size(), tokens.data());
        ++counts_.steps;
        counts_.rows += static_cast<int64_t>(tokens.size());
        const auto vocabulary = static_cast<size_t>(job_.model.sizes.target_vocabulary);
        bool good = true;
        decoder_.take_logits([&](size_t row, float* logits) { good &= owners[row]->beam->look(places[row], logits, vocabulary); });
        if (!good) {
            job_.status = NOT_A_NUMBER;
            return;
        }
        size_t bytes = spare_bytes_;
        for (const Live& one : live_) bytes += bytes_of(*one.sentence);
        if (bytes != taken_) {
            std::lock_guard<std::mutex> lock(job_.turn);
            job_.taken += bytes - taken_;
            job_.most_taken = std::max(job_.most_taken, job_.taken);
            taken_ = bytes;
        }
        size_t kept = 0;
        for (size_t i = 0; i < live_.size(); ++i) {
            Live& one = live_[i];
            if (one.beam->advance()) {
                follow(one);
                if (kept != i) live_[kept] = std::move(one);
                ++kept;
            } else {
                end(one);
            }
        }
        live_.resize(kept);
    }

    // Let the rows of a sentence continue those that were chosen.
    static void follow(Live& one) {
        const std::vector<uint32_t>& parents = one.beam->parents;
        bool same = parents.size() == one.sentence->rows;
        for (size_t r = 0; same && r < parents.size(); ++r) same = parents[r] == r;
        if (!same) one.sentence->reorder(parents);
    }

    void end(Live& one) {
        job_.results.found[one.index] = one.beam->hypotheses();
        counts_.sentence_steps += one.beam->length();
        counts_.settled_steps += one.beam->settled() ? one.beam->settled() : one.beam->length();
        std::lock_guard<std::mutex> lock(job_.turn);
        held_ -= one.held;
        job_.held -= one.held;
        const size_t bytes = bytes_of(*one.sentence);
        if (held_ + spare_bytes_ + bytes <= job_.most / job_.workers) {
            spare_bytes_ += bytes;
            job_.held += bytes;
            spare_.push_back(std::move(one.sentence));
        } else {
            one.sentence.reset();
            taken_ -= bytes;
            job_.taken -= bytes;
        }
        job_.freed.notify_all();
    }
};

template <class T>
void run_worker(Job& job) {
    try {
        Worker<T>(job).run();
    } catch (const std::exception&) {
        job.status = NO_MEMORY;
    }
}

template <class T>
void run_workers(Job& job) {
    std::vector<std::thread> others;
    try {
        for (size_t i = 1; i < job.workers; ++i) others.emplace_back(run_worker<T>, std::ref(job));
    } catch (const std::exception&) {
        // No more threads are allowed: those that there are do the work.
    }
    run_worker<T>(job);
    for (auto& other : others) other.join();
}

}  // namespace
}  // namespace pellucid

using namespace pellucid;

// What is seen of the library is only what follows.
#pragma GCC visibility push(default)
extern "C" {

// Null where the tensors are not those of such a model.
void* pellucid_model_new(const Sizes* sizes, const Reals* reals, const void* const* tensors, const int64_t* bytes, int64_t count) {
    try {
        return new Model(*sizes, *reals, Tensors(tensors, bytes, count));
    } catch (const std::exception&) {
        return nullptr;
    }
}

void pellucid_model_delete(void* model) { delete static_cast<Model*>(model); }

void* pellucid_batch_new(const void* given, const float* source_positions, const float* target_positions, const int32_t* tokens,
                         const int64_t* starts, int64_t count, const int32_t* stop) {
    const Model& model = *static_cast<const Model*>(given);
    const Positions positions{source_positions, target_positions};
    const Sources sources{tokens, starts, nullptr, nullptr, nullptr, static_cast<size_t>(count)};
    try {
        if (model.sizes.half_cache) return static_cast<Batch*>(new TypedBatch<Half>(model, positions, sources, stop));
        return static_cast<Batch*>(new TypedBatch<float>(model, positions, sources, stop));
    } catch (const std::exception&) {
        return nullptr;
    }
}

void pellucid_batch_delete(void* batch) { delete static_cast<Batch*>(batch); }

int64_t pellucid_batch_rows(const void* batch) { return static_cast<int64_t>(static_cast<const Batch*>(batch)->rows()); }

void pellucid_batch_bytes(const void* batch, int64_t* source, int64_t* past) { static_cast<const Batch*>(batch)->bytes(source, past); }

int64_t pellucid_batch_step(void* batch, const int32_t* tokens, float* logprobs) {
    try {
        static_cast<Batch*>(batch)->step(tokens, logprobs);
        return DONE;
    } catch (const std::exception&) {
        return NO_MEMORY;
    }
}

int64_t pellucid_batch_reorder(void* batch, const int64_t* parents, int64_t count) {
    try {
        static_cast<Batch*>(batch)->reorder(parents, static_cast<size_t>(count));
        return DONE;
    } catch (const std::exception&) {
        return NO_MEMORY;
    }
}

int64_t pellucid_batch_select(void* batch, const int64_t* kept, int64_t count) {
    try {
        static_cast<Batch*>(batch)->select(kept, static_cast<size_t>(count));
        return DONE;
    } catch (const std::exception&) {
        return NO_MEMORY;
    }
}

// Search all sources; *status says how it ended. Null where memory ran out before it began.
void* pellucid_search(const void* given, const float* source_positions, const float* target_positions, const int32_t* tokens,
                      const int64_t* starts, const int64_t* limits, const int32_t* prefixes, const int64_t* prefix_starts,
                      int64_t count, const SearchNumbers* numbers, double alpha, const int32_t* forbidden,
                      int64_t forbidden_count, const int32_t* stop, int64_t* status) {
    const Model& model = *static_cast<const Model*>(given);
    try {
        auto results = std::make_unique<Results>();
        results->found.resize(static_cast<size_t>(count));
        const Sources sources{tokens, starts, limits, prefixes, prefix_starts, static_cast<size_t>(count)};
        const SearchSettings settings{*numbers, alpha, std::vector<int32_t>(forbidden, forbidden + forbidden_count)};
        const size_t workers = std::max<size_t>(1, std::min(static_cast<size_t>(numbers->workers), sources.count));
        Job job{model, {source_positions, target_positions}, sources, settings, stop, *results, workers, static_cast<size_t>(numbers->most_bytes)};
        if (model.sizes.half_cache)
            run_workers<Half>(job);
        else
            run_workers<float>(job);
        *status = job.status;
        return results.release();
    } catch (const std::exception&) {
        *status = NO_MEMORY;
        return nullptr;
    }
}

// sizes: hypotheses, tokens and log p of all; then Counts.
void pellucid_results_sizes(const void* given, int64_t* sizes) {
    const Results& results = *static_cast<const Results*>(given);
    sizes[0] = sizes[1] = sizes[2] = 0;
    for (const auto& found : results.found)
        for (const Hypothesis& one : found) {
            ++sizes[0];
            sizes[1] += static_cast<int64_t>(one.tokens.size());
            sizes[2] += static_cast<int64_t>(one.logprobs.size());
        }
    std::memcpy(sizes + 3, &results.counts, sizeof(Counts));
}

// counts [sentences]; lengths (tokens), ended and scores [hypotheses]; tokens and logprobs one after the other.
void pellucid_results_copy(const void* given, int64_t* counts, int64_t* lengths, int64_t* ended, double* scores, int32_t* tokens,
                           float* logprobs) {
    for (const auto& found : static_cast<const Results*>(given)->found) {
        *counts++ = static_cast<int64_t>(found.size());
        for (const Hypothesis& one : found) {
            *lengths++ = static_cast<int64_t>(one.tokens.size());
            *ended++ = one.ended;
            *scores++ = one.score;
            tokens = std::copy(one.tokens.begin(), one.tokens.end(), tokens);
            logprobs = std::copy(one.logprobs.begin(), one.logprobs.end(), logprobs);
        }
    }
}

void pellucid_results_delete(void* results) { delete static_cast<Results*>(results); }

// For tests: have products in 8 bits use AMX or not, as far as it is there. Tells whether they do.
int64_t pellucid_use_tiles(int64_t wanted) {
    uses_tiles() = wanted && has_tiles();
    return uses_tiles();
}

}  // extern "C"
#pragma GCC visibility pop

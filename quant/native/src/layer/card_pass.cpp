// One token through layers that are on a card: its driver is asked, experts in RAM are multiplied, without coming back between
// two layers. What a caller does there takes longer than all of it.
#include "k2quant_layer.h"
#include "layer/dispatch.h"
#include "pool/pool.h"

namespace k2quant {
namespace {

struct CardPass {
    int isa;
    void* pool;
    const k2quant_card& card;
    int64_t hidden, used;
    int answer = 0;  // the driver's

    bool works(int status) {
        answer = status;
        return status == 0;
    }

    // Queues all that can be done before the experts that are here are known, and waits for their names.
    bool arrive(const k2quant_card_layer& layer) {
        if (!works(card.launch(layer.in_front, card.stream))) return false;
        if (!layer.experts) return works(card.launch(layer.beside, card.stream));
        const size_t bytes = static_cast<size_t>(2 * hidden + 2 * used) * sizeof(float);
        return works(card.copy(reinterpret_cast<uintptr_t>(card.packed_here), card.packed, bytes, card.stream)) &&
               works(card.record(card.event, card.stream)) && works(card.launch(layer.beside, card.stream)) &&
               works(card.wait(card.event));
    }

    // Whether the numbers that came are experts of the layer.
    bool read_ids(const k2quant_card_layer& layer, int64_t* ids) const {
        const float* numbers = card.packed_here + 2 * hidden + used;
        for (int64_t i = 0; i < used; ++i) {
            if (!(numbers[i] >= 0 && numbers[i] < static_cast<float>(layer.count))) return false;
            ids[i] = static_cast<int64_t>(numbers[i]);
        }
        return true;
    }

    int multiply(const k2quant_card_layer& layer, const int64_t* ids, int64_t* outcome) {
        const int64_t start = now_ns();
        Chosen chosen;
        chosen.choose(layer.experts, ids, card.packed_here + 2 * hidden, used, layer.leave_out != 0);
        outcome[0] = chosen.count;
        outcome[1] = chosen.missing;
        outcome[2] = 0;
        if (chosen.missing) return K2QUANT_OK;
        const int status = multiply_chosen(isa, pool, card.packed_here + hidden, hidden, chosen, card.sum_here);
        outcome[2] = now_ns() - start;
        if (status != K2QUANT_OK) return status;
        const size_t bytes = static_cast<size_t>(hidden) * sizeof(float);
        works(card.copy(card.sum, reinterpret_cast<uintptr_t>(card.sum_here), bytes, card.stream));
        return K2QUANT_OK;
    }
};

bool fits(const k2quant_card& card) {
    return card.launch && card.copy && card.record && card.wait && card.packed_here && card.sum_here;
}

}  // namespace
}  // namespace k2quant

using namespace k2quant;

int k2quant_card_pass(int isa, void* pool, const k2quant_card* card, const k2quant_card_layer* layers, int64_t count,
                      int64_t first, int64_t hidden, int64_t used, int64_t* ids, int64_t* outcomes, int64_t* reached) {
    if (!pool || !card || !fits(*card) || !layers || count < 0 || first < 0 || first > count || hidden < 1 || used < 0 ||
        used > MOST_USED || !ids || !outcomes || !reached) {
        return K2QUANT_BAD_ARGUMENT;
    }
    const Turn turn(*static_cast<Pool*>(pool));
    CardPass pass = {isa, pool, *card, hidden, used};
    reached[1] = 0;
    for (int64_t i = first; i < count; ++i) {
        const k2quant_card_layer& layer = layers[i];
        reached[0] = i;
        int64_t* outcome = outcomes + 3 * i;
        if (pass.arrive(layer) && layer.experts) {
            if (!pass.read_ids(layer, ids + i * used)) return K2QUANT_BAD_ARGUMENT;
            const int status = pass.multiply(layer, ids + i * used, outcome);
            if (status != K2QUANT_OK) return status;
            if (outcome[1]) return K2QUANT_OK;
        }
        if (pass.answer) {
            reached[1] = pass.answer;
            return K2QUANT_OK;
        }
    }
    reached[0] = count;
    return K2QUANT_OK;
}

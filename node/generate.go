package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"
	"unicode/utf8"

	"chorus/model"
	"chorus/model/chat"
	"chorus/node/openai"
)

// recordEvery is how long an answer may run before what it used is made durable on the way.
const recordEvery = time.Second

// ModelName is what the endpoint calls the mixture, whatever experts are in it.
func (n *Node) ModelName() string { return "chorus" }

// Owner is the consortium's name.
func (n *Node) Owner() string { return n.ledger.Charter().Name }

// Generate continues a prompt. Before every token it looks whether the mixture is still the one
// that the answer runs on; if not, it drops what it has computed, keys and values and logits, and
// prefills again on the new one, so nothing that knew a departed expert reaches the next token.
// When an expert leaves, an answer that waits for its reader drops at once what it has computed.
func (n *Node) Generate(ctx context.Context, r openai.Request, emit func(openai.Token) error) (res openai.Result, err error) {
	ids, err := n.promptIDs(r)
	if err != nil {
		return res, err
	}
	res.PromptTokens = len(ids)
	limit := n.anchor.Config.MaxPositions
	if len(ids) >= limit {
		return res, &openai.Error{Status: http.StatusBadRequest, Type: "invalid_request_error", Param: "prompt", Code: "context_length_exceeded",
			Message: fmt.Sprintf("the prompt has %d tokens and the model's context holds %d, the answer included", len(ids), limit)}
	}
	use := &meter{node: n}
	defer func() { err = errors.Join(err, use.record()) }()

	a := &answer{node: n, use: use, sampler: model.Sampler{Temperature: r.Temperature, TopP: r.TopP, Seed: r.Seed}}
	n.answers.Store(a, struct{}{})
	defer n.answers.Delete(a)
	text := textBuffer{stops: r.Stop}
	recorded := time.Now()
	for res.FinishReason == "" {
		id, shares, err := a.next(ctx, ids)
		if err != nil {
			return res, err
		}
		res.CompletionTokens++
		ids = append(ids, int32(id))
		if slices.Contains(n.anchor.Config.EOS, id) {
			res.FinishReason = "stop"
		} else if text.add(n.tokenizer.Bytes(id)) {
			res.FinishReason = "stop"
		} else if res.CompletionTokens >= r.MaxTokens || len(ids) >= limit {
			res.FinishReason = "length"
		}
		if err := emit(openai.Token{Text: text.take(res.FinishReason != ""), Attribution: shares}); err != nil {
			return res, err
		}
		if time.Since(recorded) > recordEvery {
			if err := use.record(); err != nil {
				return res, err
			}
			recorded = time.Now()
		}
	}
	res.Attribution = use.total()
	return res, nil // once what was used is on record: see above
}

// An answer is a text under way. Between two steps it can be made to let go of all it has computed.
type answer struct {
	node    *Node
	use     *meter
	sampler model.Sampler

	mu       sync.Mutex
	busy     bool            // guarded by mu: a step is under way, and mixture and sequence are its own
	mixture  *Mixture        // guarded by mu
	sequence *model.Sequence // guarded by mu; on mixture
}

// next returns the token that follows ids, computed with the mixture of the moment at which it is chosen, and what the
// slots did for it.
func (a *answer) next(ctx context.Context, ids []int32) (int, []openai.Share, error) {
	for {
		if err := ctx.Err(); err != nil {
			return 0, nil, err
		}
		id, shares, ok, err := a.step(ids)
		if ok || err != nil {
			return id, shares, err
		}
	}
}

// step computes what the sequence lacks of ids and chooses the next token, unless the mixture has changed meanwhile.
func (a *answer) step(ids []int32) (id int, shares []openai.Share, ok bool, err error) {
	m := a.node.begin()
	defer m.end()
	a.mu.Lock()
	if a.mixture != m || a.sequence == nil {
		a.mixture, a.sequence = m, m.computes.NewSequence()
	}
	a.busy = true
	a.mu.Unlock()
	defer a.rest()
	logits, err := a.sequence.Extend(ids[a.sequence.Len():])
	if err != nil {
		return 0, nil, false, err
	}
	shares = a.use.read(m, a.sequence)
	if a.node.Mixture() != m {
		return 0, nil, false, nil
	}
	return int(a.sampler.Sample(logits)), shares, true, nil
}

// rest ends a step.
func (a *answer) rest() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.busy = false
	a.letGo()
}

// letGo forgets what was computed on a mixture that is no longer in use. The caller holds mu; while a step is under way
// it is left to its end.
func (a *answer) letGo() {
	if !a.busy && a.mixture != a.node.Mixture() {
		a.mixture, a.sequence, a.use.mixture = nil, nil, nil
	}
}

// letGo has every answer under way forget what was computed on a mixture that is no longer in use.
func (n *Node) letGo() {
	for a := range n.answers.Range {
		a := a.(*answer)
		a.mu.Lock()
		a.letGo()
		a.mu.Unlock()
	}
}

// A chatTemplate is the anchor's, or why there is none.
type chatTemplate struct {
	*chat.Template
	err error
}

// loadChat reads the chat template of the anchor's folder. A node serves without one, or with one that it
// cannot read: then it answers no chats.
func (n *Node) loadChat(dir string) {
	n.chat.Template, n.chat.err = chat.Load(dir)
	if n.chat.err != nil && !errors.Is(n.chat.err, chat.ErrNone) {
		n.log.Warn("the chat template cannot be used, so chats are refused", slog.Any("error", n.chat.err))
	}
}

// ChatPrompt renders a chat by the anchor's template. As with transformers, what the template writes of special
// tokens counts as such and none is added. The text of a message never does: a message that spells one is refused,
// since it could pretend to be other turns.
func (n *Node) ChatPrompt(messages []openai.Message) ([]int, error) {
	refuse := func(param, format string, args ...any) ([]int, error) {
		return nil, &openai.Error{Status: http.StatusBadRequest, Type: "invalid_request_error", Param: param, Message: fmt.Sprintf(format, args...)}
	}
	switch {
	case errors.Is(n.chat.err, chat.ErrNone):
		return refuse("model", "%s has no chat template, so it cannot answer chats: use /v1/completions", n.ModelName())
	case n.chat.err != nil:
		return refuse("model", "the chat template of %s cannot be used here, as the node's log says: use /v1/completions", n.ModelName())
	}
	turns := make([]chat.Message, len(messages))
	for i, m := range messages {
		ids := n.tokenizer.EncodeSpecial(m.Content)
		if at := slices.IndexFunc(ids, n.tokenizer.IsSpecial); at >= 0 {
			return refuse("messages", "messages[%d] contains the special token %s, which only the chat template may write", i, n.tokenizer.Bytes(ids[at]))
		}
		turns[i] = chat.Message{Role: m.Role, Content: m.Content}
	}
	text, err := n.chat.Render(turns, true)
	if refusal := (*chat.Refusal)(nil); errors.As(err, &refusal) {
		return refuse("messages", "%s", refusal.Message)
	}
	if err != nil {
		return refuse("messages", "the chat template of %s makes no prompt of these messages: %v", n.ModelName(), err)
	}
	return n.tokenizer.EncodeSpecial(text), nil
}

// promptIDs returns the tokens to continue: of an empty prompt, the mark between documents.
func (n *Node) promptIDs(r openai.Request) ([]int32, error) {
	given := r.PromptIDs
	if given == nil {
		given = n.tokenizer.Encode(r.Prompt)
	}
	if len(given) == 0 {
		given = n.anchor.Config.EOS[:1]
	}
	ids := make([]int32, len(given))
	for i, id := range given {
		if id < 0 || id >= n.anchor.Config.VocabSize {
			return nil, &openai.Error{Status: http.StatusBadRequest, Type: "invalid_request_error", Param: "prompt",
				Message: fmt.Sprintf("token id %d is outside the vocabulary of %d", id, n.anchor.Config.VocabSize)}
		}
		ids[i] = int32(id)
	}
	return ids, nil
}

// A textBuffer turns the bytes of tokens into text for a stream: it holds back what may still
// become a character or a stop string.
type textBuffer struct {
	stops []string
	held  []byte
}

// add appends a token's bytes and reports whether a stop string is complete; the text ends before it.
func (t *textBuffer) add(b []byte) (stopped bool) {
	t.held = append(t.held, b...)
	at := -1
	for _, s := range t.stops {
		if i := bytes.Index(t.held, []byte(s)); s != "" && i >= 0 && (at < 0 || i < at) {
			at = i
		}
	}
	if at >= 0 {
		t.held = t.held[:at]
	}
	return at >= 0
}

// take removes and returns the text that is certain; at the end, all of it. Bytes that are not
// UTF-8 become U+FFFD.
func (t *textBuffer) take(end bool) string {
	n := len(t.held)
	if !end {
		for _, s := range t.stops {
			for k := min(len(s)-1, len(t.held)); k > 0; k-- {
				if bytes.HasSuffix(t.held, []byte(s[:k])) {
					n = min(n, len(t.held)-k)
					break
				}
			}
		}
		for back := 1; back < utf8.UTFMax && back <= n; back++ {
			if c := t.held[n-back]; utf8.RuneStart(c) {
				if !utf8.FullRune(t.held[n-back : n]) {
					n -= back
				}
				break
			}
		}
	}
	text := string(bytes.ToValidUTF8(t.held[:n], []byte("\uFFFD")))
	t.held = slices.Delete(t.held, 0, n)
	return text
}

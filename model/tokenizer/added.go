package tokenizer

// trie finds added tokens in text. A nil trie holds none.
type trie struct {
	next    map[byte]*trie
	id      int // -1 inside a token's content
	special bool
}

func (n *trie) add(content string, id int, special bool) *trie {
	if n == nil {
		n = &trie{id: -1}
	}
	root := n
	for i := range len(content) {
		child := n.next[content[i]]
		if child == nil {
			child = &trie{id: -1}
			if n.next == nil {
				n.next = make(map[byte]*trie)
			}
			n.next[content[i]] = child
		}
		n = child
	}
	n.id, n.special = id, special
	return root
}

// cut calls emit for each part of text in order: with the id of an added token,
// or with a stretch of text between them and -1. Of the tokens that begin at
// one place the longest counts. A special token that is not wanted is text, and
// no other token is looked for inside it.
func (n *trie) cut(text string, special bool, emit func(text string, id int)) {
	begin := 0
	if n != nil {
		for i := 0; i < len(text); {
			found, end := n.longest(text, i)
			if found == nil {
				i++
				continue
			}
			if special || !found.special {
				if begin < i {
					emit(text[begin:i], -1)
				}
				emit(text[i:end], found.id)
				begin = end
			}
			i = end
		}
	}
	if begin < len(text) {
		emit(text[begin:], -1)
	}
}

func (n *trie) longest(text string, begin int) (found *trie, end int) {
	for i := begin; i < len(text); i++ {
		if n = n.next[text[i]]; n == nil {
			break
		}
		if n.id >= 0 {
			found, end = n, i+1
		}
	}
	return found, end
}

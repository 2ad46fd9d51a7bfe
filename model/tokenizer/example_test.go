package tokenizer_test

import (
	"fmt"
	"slices"

	"chorus/model/tokenizer"
)

func ExampleTrain() {
	texts := []string{"the river rose", "the river fell", "the river, the meadow"}
	tok, err := tokenizer.Train(slices.Values(texts), 270, []string{"<|endoftext|>"})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, id := range tok.Encode("the river rose") {
		fmt.Printf("%q ", tok.Bytes(id))
	}
	end, _ := tok.SpecialID("<|endoftext|>")
	fmt.Println(tok.VocabSize(), end)
	// Output: "the" " river" " r" "o" "s" "e" 264 0
}

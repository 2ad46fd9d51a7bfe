package safetensors_test

import (
	"fmt"
	"os"
	"path/filepath"

	"chorus/model/safetensors"
)

func Example() {
	dir, err := os.MkdirTemp("", "safetensors")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer os.RemoveAll(dir)

	path := filepath.Join(dir, "expert.safetensors")
	bias := safetensors.FromFloat32("router.bias", safetensors.BF16, []int{2}, []float32{0.5, -1})
	if err := safetensors.Write(path, []safetensors.Tensor{bias}, nil); err != nil {
		fmt.Println(err)
		return
	}

	f, err := safetensors.Open(path)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer f.Close()
	t, _ := f.Tensor("router.bias")
	fmt.Println(t.DType, t.Shape, t.Float32s())
	// Output: BF16 [2] [0.5 -1]
}

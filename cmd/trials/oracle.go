package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
)

// An oracle is a Python process that answers questions with the reference implementation of something:
// one JSON object a line, each way.
type oracle struct {
	version string // of the reference
	cmd     *exec.Cmd
	in      io.WriteCloser
	out     *bufio.Reader
}

// startOracle runs a script, which begins by saying its version, in an interpreter that has the packages.
func startOracle(ctx context.Context, python, script string, packages ...string) (*oracle, error) {
	o := &oracle{cmd: exec.CommandContext(ctx, python, "-c", script)}
	o.cmd.Env = append(os.Environ(), "TOKENIZERS_PARALLELISM=false", "RAYON_NUM_THREADS=1", "OMP_NUM_THREADS=1")
	o.cmd.Stderr = os.Stderr
	var err error
	if o.in, err = o.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	out, err := o.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	o.out = bufio.NewReaderSize(out, 1<<20)
	if err := o.cmd.Start(); err != nil {
		return nil, fmt.Errorf("%w: name a Python with --python", err)
	}
	if err := o.ask(struct{}{}, &o.version); err != nil {
		o.end()
		return nil, fmt.Errorf("%w\nget it with `%s -m pip install %s`, or name another Python with --python", err, python, strings.Join(packages, " "))
	}
	return o, nil
}

// ask puts a question and decodes what was answered. An exception of Python's is an error.
func (o *oracle) ask(question, answer any) error {
	b, err := json.Marshal(question)
	if err != nil {
		return err
	}
	if _, err := o.in.Write(append(b, '\n')); err != nil {
		return fmt.Errorf("asking Python: %w", err)
	}
	line, err := o.out.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("answer of Python: %w", err)
	}
	got := struct {
		Value any    `json:"value"`
		Error string `json:"error"`
	}{Value: answer}
	if err := json.Unmarshal(line, &got); err != nil {
		return fmt.Errorf("answer of Python %.200q: %w", line, err)
	}
	if got.Error != "" {
		return errors.New(got.Error)
	}
	return nil
}

// end closes the process and returns what was its largest memory.
func (o *oracle) end() (memory string) {
	_ = o.in.Close()
	_ = o.cmd.Wait() // it has nothing left to say
	return peakMemory(o.cmd.ProcessState)
}

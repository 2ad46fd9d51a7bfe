//go:build !linux

package main

import (
	"context"
	"errors"
)

var errNoNetwork = errors.New("this trial cuts a network in two, which it can do on Linux alone")

func alone(context.Context) (done bool, err error) { return true, errNoNetwork }
func cut(context.Context) error                    { return errNoNetwork }
func heal(context.Context) error                   { return errNoNetwork }

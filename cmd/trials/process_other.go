//go:build !linux

package main

import "errors"

func usageOf(*process) (usage, error) {
	return usage{}, errors.New("this trial reads /proc, which Linux alone has")
}

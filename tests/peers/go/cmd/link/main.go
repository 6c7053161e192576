// A link between two network namespaces, as slow and as lossy as it is told to be, for tests of everything
// that feels the way: TCP, QUIC, and what is built on them.
//
//	link [-delay 10ms] [-rate 1000] [-loss 0] [-seed 1] NAMESPACE=ADDRESS NAMESPACE=ADDRESS
//
// Each end is a TUN device with that IPv4 address and the other one as its peer. Each way, packets wait in a
// queue of what the link carries in a round trip, leave it at the rate (Mbit/s of IP packets), arrive after
// the delay, and get lost by chance (percent). What finds no room in the queue is dropped.
//
// It prints "ready" when both ends are up. To each line on standard input it answers with the packets that it
// carried, lost by chance, and dropped for want of room, both ways together. It ends with its standard input,
// and the devices with it. The namespaces must be there, and stay.
package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"time"
)

// A link has room for so many bytes at least.
const queueBytesMin = 256 * 1024

type settings struct {
	delay time.Duration
	// Bytes in a nanosecond.
	rate float64
	loss float64
	seed uint64
}

// counts are of both ways.
type counts struct {
	carried, lost, dropped atomic.Uint64
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "link:", err)
		os.Exit(1)
	}
}

func run() error {
	settings, names, err := arguments()
	if err != nil {
		return err
	}
	ends, err := openBoth(names)
	if err != nil {
		return err
	}
	var sums counts
	failed := make(chan error)
	for number := range ends {
		chance := rand.New(rand.NewPCG(settings.seed, uint64(number)))
		way := newWay(ends[number], ends[1-number], settings, chance, &sums)
		go func() { failed <- way.carry() }()
	}
	fmt.Println("ready")
	go func() { failed <- answer(&sums) }()
	return <-failed
}

func arguments() (settings, [2]string, error) {
	delay := flag.Duration("delay", 0, "one way")
	rate := flag.Float64("rate", 1000, "Mbit/s each way")
	loss := flag.Float64("loss", 0, "percent of the packets each way")
	seed := flag.Uint64("seed", 1, "of chance")
	flag.Parse()
	if flag.NArg() != 2 || *delay < 0 || *rate <= 0 || *loss < 0 || *loss > 100 {
		return settings{}, [2]string{}, errors.New("usage: link [flags] NAMESPACE=ADDRESS NAMESPACE=ADDRESS")
	}
	bytesPerNs := *rate * 1e6 / 8 / 1e9
	return settings{*delay, bytesPerNs, *loss / 100, *seed}, [2]string{flag.Arg(0), flag.Arg(1)}, nil
}

// openBoth makes the two ends and sets them up.
func openBoth(names [2]string) ([2]*device, error) {
	var ends [2]*device
	var namespaces, addresses [2]string
	for number, name := range names {
		var found bool
		if namespaces[number], addresses[number], found = strings.Cut(name, "="); !found {
			return ends, fmt.Errorf("%q is not NAMESPACE=ADDRESS", name)
		}
		end, err := openDevice("/run/netns/" + namespaces[number])
		if err != nil {
			return ends, fmt.Errorf("%s: %w", namespaces[number], err)
		}
		ends[number] = end
	}
	for number, end := range ends {
		set := []string{"-n", namespaces[number], "link", "set", end.name, "up", "txqueuelen", "10000"}
		peer := []string{"-n", namespaces[number], "addr", "add", addresses[number],
			"peer", addresses[1-number], "dev", end.name}
		for _, words := range [][]string{set, peer} {
			if said, err := exec.Command("ip", words...).CombinedOutput(); err != nil {
				return ends, fmt.Errorf("ip %s: %w: %s", strings.Join(words, " "), err, said)
			}
		}
	}
	return ends, nil
}

// answer tells the sums for each line, until there are no more.
func answer(sums *counts) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		fmt.Println(sums.carried.Load(), sums.lost.Load(), sums.dropped.Load())
	}
	return lines.Err()
}

package main

import (
	"math/rand/v2"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// Packets that are read before those that are due are delivered.
const batchMax = 64

// An arrival is a packet on its way.
type arrival struct {
	due  time.Duration
	data []byte
}

// A way carries packets from one end to the other.
type way struct {
	from, to *device
	settings
	queueBytes float64
	chance     *rand.Rand
	sums       *counts
	start      time.Time
	// When all that waits in the queue will have left it.
	free time.Duration
	// In order; those before first have arrived.
	arrivals []arrival
	first    int
}

func newWay(from, to *device, settings settings, chance *rand.Rand, sums *counts) *way {
	roundTrip := settings.rate * 2 * float64(settings.delay)
	return &way{
		from: from, to: to, settings: settings, queueBytes: max(roundTrip, queueBytesMin),
		chance: chance, sums: sums, start: time.Now(),
	}
}

// carry goes on until a device fails.
func (way *way) carry() error {
	runtime.LockOSThread()
	// Waiting ends when it should, not up to 50 µs later; what cannot be set costs only that.
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(time.Microsecond), 0, 0, 0)
	var buffer [headerLen + packetLenMax]byte
	for {
		if err := way.wait(); err != nil {
			return err
		}
		for range batchMax {
			count, err := unix.Read(way.from.fd, buffer[:])
			if err == unix.EAGAIN || err == unix.EINTR {
				break
			}
			if err != nil {
				return err
			}
			if sent, ok := parse(buffer[:count]); ok {
				way.take(sent)
			}
		}
		if err := way.deliver(); err != nil {
			return err
		}
	}
}

// wait returns when a packet came or one is due.
func (way *way) wait() error {
	fds := []unix.PollFd{{Fd: int32(way.from.fd), Events: unix.POLLIN}}
	var limit *unix.Timespec
	if way.first < len(way.arrivals) {
		rest := max(0, way.arrivals[way.first].due-time.Since(way.start))
		timespec := unix.NsecToTimespec(int64(rest))
		limit = &timespec
	}
	if _, err := unix.Ppoll(fds, limit, nil); err != nil && err != unix.EINTR {
		return err
	}
	return nil
}

// take puts those of the packets that are not lost and find room on their way, each run of them as one.
func (way *way) take(sent packets) {
	now := time.Since(way.start)
	count, begin := sent.count(), 0
	for number := range count {
		if way.keeps(sent.wireLen(number), now) {
			continue
		}
		way.send(sent, begin, number)
		begin = number + 1
	}
	way.send(sent, begin, count)
}

// keeps tells whether a packet goes on, and if so has it take its time.
func (way *way) keeps(wireLen int, now time.Duration) bool {
	if way.loss > 0 && way.chance.Float64() < way.loss {
		way.sums.lost.Add(1)
		return false
	}
	waiting := max(0, float64(way.free-now)) * way.rate
	if waiting+float64(wireLen) > way.queueBytes {
		way.sums.dropped.Add(1)
		return false
	}
	way.free = max(way.free, now) + time.Duration(float64(wireLen)/way.rate)
	way.sums.carried.Add(1)
	return true
}

func (way *way) send(sent packets, begin, end int) {
	if begin < end {
		way.arrivals = append(way.arrivals, arrival{way.free + way.delay, sent.part(begin, end)})
	}
}

// deliver hands over what is due.
func (way *way) deliver() error {
	now := time.Since(way.start)
	for way.first < len(way.arrivals) && way.arrivals[way.first].due <= now {
		_, err := unix.Write(way.to.fd, way.arrivals[way.first].data)
		// A receiver without room, or whose end is not up, loses it, as on any link.
		if err != nil && err != unix.EAGAIN && err != unix.EIO && err != unix.ENOBUFS && err != unix.ENOMEM {
			return err
		}
		way.arrivals[way.first].data = nil
		way.first++
	}
	if way.first > len(way.arrivals)/2 {
		way.arrivals = append(way.arrivals[:0], way.arrivals[way.first:]...)
		way.first = 0
	}
	return nil
}

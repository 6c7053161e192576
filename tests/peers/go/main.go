// A peer of the network as kubo is built of: go-libp2p and boxo's bitswap over a store in memory.
//
// Before the addresses to listen on, "relay" makes it a relay for others too, and "key FILE" has it in the
// private network of that key.
//
// It prints its addresses, one a line, each after the word "listening", and then "ready". Commands come
// on standard input, one a line; each is answered with one line, "ok …" or "error …":
//
//	connect ADDRESS      connects to a peer
//	add FILE             stores a file, answers with its CID
//	tree FOLDER          stores a folder, each directory in shards, answers with its CID
//	block FILE           stores a file as one raw block, answers with its CID
//	get CID FILE         fetches a file and writes it
//	fetch TIME CID       fetches a block within a time such as 1s, answers with its length
//	wants ADDRESS        answers with what a peer wants
//	stat                 answers with blocks received, duplicates among them, and bytes received
package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/ipfs/boxo/bitswap"
	bsnet "github.com/ipfs/boxo/bitswap/network/bsnet"
	"github.com/ipfs/boxo/blockservice"
	"github.com/ipfs/boxo/blockstore"
	"github.com/ipfs/boxo/chunker"
	"github.com/ipfs/boxo/ipld/merkledag"
	"github.com/ipfs/boxo/ipld/unixfs/importer/balanced"
	"github.com/ipfs/boxo/ipld/unixfs/importer/helpers"
	uio "github.com/ipfs/boxo/ipld/unixfs/io"
	blocks "github.com/ipfs/go-block-format"
	"github.com/ipfs/go-cid"
	"github.com/ipfs/go-datastore"
	dssync "github.com/ipfs/go-datastore/sync"
	ipld "github.com/ipfs/go-ipld-format"
	"github.com/libp2p/go-libp2p"
	"github.com/libp2p/go-libp2p/core/host"
	"github.com/libp2p/go-libp2p/core/peer"
	"github.com/libp2p/go-libp2p/core/pnet"
	"github.com/libp2p/go-libp2p/p2p/transport/tcp"
	"github.com/multiformats/go-multiaddr"
	"github.com/multiformats/go-multihash"
)

// How long a command may take.
const patience = 5 * time.Minute

type node struct {
	host    host.Host
	store   blockstore.Blockstore
	bitswap *bitswap.Bitswap
	service blockservice.BlockService
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "peer:", err)
		os.Exit(1)
	}
}

func run() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	node, err := start(ctx, os.Args[1:])
	if err != nil {
		return err
	}
	for _, address := range node.host.Addrs() {
		fmt.Printf("listening %s/p2p/%s\n", address, node.host.ID())
	}
	fmt.Println("ready")
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		ctx, cancel := context.WithTimeout(ctx, patience)
		answer, err := node.obey(ctx, strings.Fields(lines.Text()))
		cancel()
		if err != nil {
			answer = "error " + strings.ReplaceAll(err.Error(), "\n", " ")
		} else {
			answer = strings.TrimSpace("ok " + answer)
		}
		fmt.Println(answer)
	}
	return lines.Err()
}

// start listens on the addresses.
func start(ctx context.Context, addresses []string) (*node, error) {
	options, addresses, err := options(addresses)
	if err != nil {
		return nil, err
	}
	host, err := libp2p.New(append(options, libp2p.ListenAddrStrings(addresses...))...)
	if err != nil {
		return nil, err
	}
	store := blockstore.NewBlockstore(dssync.MutexWrap(datastore.NewMapDatastore()))
	network := bsnet.NewFromIpfsHost(host)
	exchange := bitswap.New(ctx, network, nil, store)
	network.Start(exchange)
	return &node{host, store, exchange, blockservice.New(store, exchange)}, nil
}

// options reads the words in front of the addresses.
func options(words []string) ([]libp2p.Option, []string, error) {
	options := []libp2p.Option{libp2p.DisableRelay()}
	for len(words) > 0 {
		switch {
		case words[0] == "relay":
			options = []libp2p.Option{
				libp2p.EnableRelayService(), libp2p.ForceReachabilityPublic(), libp2p.AddrsFactory(named),
			}
			words = words[1:]
		case words[0] == "key" && len(words) > 1:
			file, err := os.Open(words[1])
			if err != nil {
				return nil, nil, err
			}
			key, err := pnet.DecodeV1PSK(file)
			file.Close()
			if err != nil {
				return nil, nil, err
			}
			options = append(options, libp2p.PrivateNetwork(key), libp2p.Transport(tcp.NewTCPTransport))
			words = words[2:]
		default:
			return options, words, nil
		}
	}
	return options, words, nil
}

// named adds an address with a name that nobody looks up: a relay tells others its public addresses only.
func named(addresses []multiaddr.Multiaddr) []multiaddr.Multiaddr {
	return append(addresses, multiaddr.StringCast("/dns4/relay.example.org/tcp/1"))
}

func (node *node) obey(ctx context.Context, words []string) (string, error) {
	switch {
	case len(words) == 2 && words[0] == "connect":
		return "", node.connect(ctx, words[1])
	case len(words) == 2 && words[0] == "add":
		return node.add(words[1])
	case len(words) == 2 && words[0] == "tree":
		root, err := node.tree(ctx, words[1])
		if err != nil {
			return "", err
		}
		return root.Cid().String(), nil
	case len(words) == 2 && words[0] == "wants":
		return node.wants(words[1])
	case len(words) == 2 && words[0] == "block":
		return node.block(ctx, words[1])
	case len(words) == 3 && words[0] == "get":
		return "", node.get(ctx, words[1], words[2])
	case len(words) == 3 && words[0] == "fetch":
		return node.fetch(ctx, words[1], words[2])
	case len(words) == 1 && words[0] == "stat":
		return node.stat()
	}
	return "", fmt.Errorf("no such command: %v", words)
}

func (node *node) connect(ctx context.Context, text string) error {
	address, err := multiaddr.NewMultiaddr(text)
	if err != nil {
		return err
	}
	info, err := peer.AddrInfoFromP2pAddr(address)
	if err != nil {
		return err
	}
	return node.host.Connect(ctx, *info)
}

func (node *node) add(path string) (string, error) {
	root, err := node.file(path)
	if err != nil {
		return "", err
	}
	return root.Cid().String(), nil
}

func (node *node) file(path string) (ipld.Node, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	params := helpers.DagBuilderParams{
		Maxlinks:   1024,
		RawLeaves:  true,
		CidBuilder: cid.V1Builder{Codec: cid.DagProtobuf, MhType: multihash.SHA2_256},
		Dagserv:    merkledag.NewDAGService(node.service),
	}
	builder, err := params.New(chunk.NewSizeSplitter(file, 1024*1024))
	if err != nil {
		return nil, err
	}
	return balanced.Layout(builder)
}

func (node *node) tree(ctx context.Context, path string) (ipld.Node, error) {
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	service := merkledag.NewDAGService(node.service)
	directory, err := uio.NewHAMTDirectory(service, 0)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		var child ipld.Node
		path := filepath.Join(path, entry.Name())
		if entry.IsDir() {
			child, err = node.tree(ctx, path)
		} else {
			child, err = node.file(path)
		}
		if err != nil {
			return nil, err
		}
		if err := directory.AddChild(ctx, entry.Name(), child); err != nil {
			return nil, err
		}
	}
	root, err := directory.GetNode()
	if err != nil {
		return nil, err
	}
	return root, service.Add(ctx, root)
}

func (node *node) wants(text string) (string, error) {
	address, err := multiaddr.NewMultiaddr(text)
	if err != nil {
		return "", err
	}
	info, err := peer.AddrInfoFromP2pAddr(address)
	if err != nil {
		return "", err
	}
	var wanted []string
	for _, id := range node.bitswap.WantlistForPeer(info.ID) {
		wanted = append(wanted, id.String())
	}
	return strings.Join(wanted, " "), nil
}

func (node *node) block(ctx context.Context, path string) (string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	id, err := cid.V1Builder{Codec: cid.Raw, MhType: multihash.SHA2_256}.Sum(data)
	if err != nil {
		return "", err
	}
	block, err := blocks.NewBlockWithCid(data, id)
	if err != nil {
		return "", err
	}
	return id.String(), node.service.AddBlock(ctx, block)
}

func (node *node) get(ctx context.Context, text, path string) error {
	id, err := cid.Decode(text)
	if err != nil {
		return err
	}
	dag := merkledag.NewSession(ctx, merkledag.NewDAGService(node.service))
	root, err := dag.Get(ctx, id)
	if err != nil {
		return err
	}
	file, err := uio.NewDagReader(ctx, root, dag)
	if err != nil {
		return err
	}
	out, err := os.Create(path)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, file); err != nil {
		return err
	}
	return out.Close()
}

func (node *node) fetch(ctx context.Context, patience, text string) (string, error) {
	limit, err := time.ParseDuration(patience)
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	id, err := cid.Decode(text)
	if err != nil {
		return "", err
	}
	block, err := node.service.GetBlock(ctx, id)
	if err != nil {
		return "", err
	}
	return fmt.Sprint(len(block.RawData())), nil
}

func (node *node) stat() (string, error) {
	stat, err := node.bitswap.Stat()
	if err != nil {
		return "", err
	}
	return fmt.Sprint(stat.BlocksReceived, stat.DupBlksReceived, stat.DataReceived), nil
}

// A peer of the network as Helia is: js-libp2p and Helia's bitswap over a store in memory.
//
// It speaks as the peer in Go does: "listening ADDRESS" for each address, then "ready"; commands on
// standard input, one a line, each answered with one line, "ok …" or "error …":
//
//   connect ADDRESS   connects to a peer
//   add FILE          stores a file, answers with its CID
//   tree FOLDER       stores a folder, each directory in shards, answers with its CID
//   get CID FILE      fetches a file and writes it

import { createWriteStream, createReadStream } from 'node:fs'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'

import { noise } from '@chainsafe/libp2p-noise'
import { yamux } from '@chainsafe/libp2p-yamux'
import { withBitswap } from '@helia/bitswap'
import { withLibp2pLight } from '@helia/libp2p'
import { globSource, unixfs } from '@helia/unixfs'
import { identify } from '@libp2p/identify'
import { ping } from '@libp2p/ping'
import { tcp } from '@libp2p/tcp'
import { webSockets } from '@libp2p/websockets'
import { multiaddr } from '@multiformats/multiaddr'
import { createHeliaLight } from 'helia'
import { CID } from 'multiformats/cid'

const PATIENCE_MS = 300_000

const helia = withBitswap(withLibp2pLight(createHeliaLight(), {
  addresses: { listen: process.argv.slice(2) },
  transports: [tcp(), webSockets()],
  connectionEncrypters: [noise()],
  streamMuxers: [yamux()],
  services: { identify: identify(), ping: ping() }
}))
await helia.start()
const files = unixfs(helia)

const commands = {
  async connect (address) {
    await helia.libp2p.dial(multiaddr(address))
    return ''
  },

  async add (path) {
    const cid = await files.addByteStream(createReadStream(path), { rawLeaves: true })
    return cid.toString()
  },

  async tree (path) {
    const options = { rawLeaves: true, shardSplitThresholdBytes: 1, wrapWithDirectory: true }
    let root
    for await (const entry of files.addAll(globSource(path, '**/*'), options)) {
      root = entry.cid
    }
    return root.toString()
  },

  async get (cid, path) {
    const bytes = files.cat(CID.parse(cid), { signal: AbortSignal.timeout(PATIENCE_MS) })
    await pipeline(Readable.from(bytes), createWriteStream(path))
    return ''
  }
}

for (const address of helia.libp2p.getMultiaddrs()) {
  console.log(`listening ${address}`)
}
console.log('ready')
for await (const line of createInterface({ input: process.stdin })) {
  const [command, ...words] = line.split(' ')
  try {
    const answer = await commands[command](...words)
    console.log(`ok ${answer}`.trim())
  } catch (error) {
    console.log(`error ${error}`.replaceAll('\n', ' '))
  }
}
process.exit()

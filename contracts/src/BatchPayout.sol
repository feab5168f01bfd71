// SPDX-License-Identifier: Apache-2.0
pragma solidity 0.8.37;

import {IERC20} from "@openzeppelin/contracts/token/ERC20/IERC20.sol";
import {SafeERC20} from "@openzeppelin/contracts/token/ERC20/utils/SafeERC20.sol";
import {Ownable, Ownable2Step} from "@openzeppelin/contracts/access/Ownable2Step.sol";
import {Pausable} from "@openzeppelin/contracts/utils/Pausable.sol";

/// One account's withdrawal.
struct Payout {
    address to;
    uint256 amount;
}

/// @title Pays many accounts in one transaction, each batch at most once
/// @notice The contract holds what it pays out. The owner, a key kept offline, fills and empties it and sets the limit; the operator, the
/// gateway's payout key, can only pay, within the limit of 24 hours, and stop. Who steals the operator's key gets at most one limit in every
/// 24 hours, until somebody stops it.
/// @dev A batch is settled when `pay` has run: what could not be sent is said by `NotPaid`, stays here, and is never tried again under
/// this batch. Whoever keeps the books puts it into another batch. Nothing is owed on chain, so there is one book, not two.
contract BatchPayout is Ownable2Step, Pausable {
    using SafeERC20 for IERC20;

    /// @notice Most gas that one transfer gets. Tokens with hooks run the recipient's code; it can waste this much, not the batch.
    uint256 public constant TRANSFER_GAS = 250_000;
    /// @notice What has to be left before a transfer: the call keeps back a 64th, and what follows it needs the rest. With less, a
    /// transfer could fail for want of gas and count as one that the token refused.
    uint256 public constant GAS_LEFT = (TRANSFER_GAS * 64) / 63 + 10_000;
    /// @notice The grain in which the limit forgets.
    uint256 public constant SLICE = 3 hours;
    /// @dev That many slices cover every 24 hours that end now, the running slice and the one that a day touches at its far end included.
    uint256 private constant SLICES = 24 hours / SLICE + 1;

    /// @notice What is paid out.
    IERC20 public immutable token;
    /// @notice Who may call `pay`.
    address public operator;
    /// @notice Most that is paid in any 24 hours. It is forgotten after 24 to 27 hours.
    uint256 public dailyLimit;
    /// @notice The digest of what was paid under a batch's id; zero while nothing was.
    mapping(bytes32 batch => bytes32 digest) public digestOf;
    mapping(uint256 slice => uint256 amount) private _spentIn;

    /// @notice A batch was carried out: `paid` and `unpaid` add up to its payouts.
    event BatchPaid(bytes32 indexed batch, bytes32 digest, uint256 paid, uint256 unpaid);
    /// @notice The token refused this payout of a batch, or it was to this contract or the token, where nobody would have it.
    event NotPaid(bytes32 indexed batch, uint256 index, address indexed to, uint256 amount);
    event OperatorChanged(address indexed operator);
    event DailyLimitChanged(uint256 dailyLimit);
    event Withdrawn(IERC20 indexed token, address indexed to, uint256 amount);

    /// @notice Neither operator nor, where it may act, owner.
    error NotAllowed(address caller);
    error NoContract(address token);
    error AlreadyPaid(bytes32 batch);
    error Expired(uint256 deadline);
    error EmptyBatch();
    error AboveDailyLimit(uint256 asked, uint256 left);
    error NotFunded(uint256 asked, uint256 held);
    error TooLittleGas();
    error OwnerIsNeeded();

    constructor(IERC20 token_, address owner_, address operator_, uint256 dailyLimit_) Ownable(owner_) {
        // A call to an address without code succeeds: every payout would be a success that moves nothing.
        if (address(token_).code.length == 0) revert NoContract(address(token_));
        token = token_;
        _setOperator(operator_);
        _setDailyLimit(dailyLimit_);
    }

    /// @notice Pays a batch. It reverts as a whole, and may be sent again, if it was paid before, comes after its deadline, is empty,
    /// is more than the limit leaves or than is held, or if the contract is paused.
    /// @param batch An id that is used once, whatever becomes of the transactions that carry it.
    /// @param deadline Last second of a block that may have it. A batch that is in no final block by then never will be in one.
    /// @return unpaid What the token refused to send. A call without a transaction tells it beforehand.
    function pay(bytes32 batch, uint256 deadline, Payout[] calldata payouts)
        external
        whenNotPaused
        returns (uint256 unpaid)
    {
        if (msg.sender != operator) revert NotAllowed(msg.sender);
        if (digestOf[batch] != 0) revert AlreadyPaid(batch);
        if (block.timestamp > deadline) revert Expired(deadline);
        if (payouts.length == 0) revert EmptyBatch();
        uint256 total;
        for (uint256 i = 0; i < payouts.length; ++i) {
            total += payouts[i].amount;
        }
        // Everything is written before the first call to the token: code that it runs finds the batch paid and the limit used. A batch
        // inside a transfer pays nothing: it has less than GAS_LEFT.
        _spend(total);
        bytes32 digest = _digest(payouts);
        digestOf[batch] = digest;
        for (uint256 i = 0; i < payouts.length; ++i) {
            Payout calldata payout = payouts[i];
            if (!_send(payout.to, payout.amount)) {
                unpaid += payout.amount;
                emit NotPaid(batch, i, payout.to, payout.amount);
            }
        }
        // What did not leave uses no limit: else one recipient who cannot be paid, asked for again and again, would stop everybody's day.
        if (unpaid != 0) _spentIn[block.timestamp / SLICE] -= unpaid;
        emit BatchPaid(batch, digest, total - unpaid, unpaid);
    }

    /// @notice What `pay` could pay now, as far as the limit goes.
    function leftToday() public view returns (uint256) {
        uint256 slice = block.timestamp / SLICE;
        uint256 spent;
        for (uint256 i = 0; i < SLICES; ++i) {
            spent += _spentIn[slice - i];
        }
        return spent < dailyLimit ? dailyLimit - spent : 0;
    }

    /// @notice Stops payouts. The operator may, too: it sees first that something does not add up.
    function pause() external {
        if (msg.sender != operator && msg.sender != owner()) revert NotAllowed(msg.sender);
        _pause();
    }

    function unpause() external onlyOwner {
        _unpause();
    }

    function setOperator(address operator_) external onlyOwner {
        _setOperator(operator_);
    }

    function setDailyLimit(uint256 dailyLimit_) external onlyOwner {
        _setDailyLimit(dailyLimit_);
    }

    /// @notice Takes out what is here, of any token.
    function withdraw(IERC20 token_, address to, uint256 amount) external onlyOwner {
        token_.safeTransfer(to, amount);
        emit Withdrawn(token_, to, amount);
    }

    /// @notice Refused: without an owner nobody could take out what is left or change a lost operator.
    function renounceOwnership() public view override onlyOwner {
        revert OwnerIsNeeded();
    }

    function _spend(uint256 amount) private {
        uint256 left = leftToday();
        if (amount > left) revert AboveDailyLimit(amount, left);
        // Else the last payouts of a batch would be refused one by one, and the batch be over.
        uint256 held = token.balanceOf(address(this));
        if (amount > held) revert NotFunded(amount, held);
        _spentIn[block.timestamp / SLICE] += amount;
    }

    /// @dev Keccak-256 over two words a payout. They lie together in calldata; an address with dirty upper bytes is refused when it is read.
    function _digest(Payout[] calldata payouts) private pure returns (bytes32 digest) {
        assembly ("memory-safe") {
            let size := mul(payouts.length, 0x40)
            let start := mload(0x40)
            calldatacopy(start, payouts.offset, size)
            digest := keccak256(start, size)
        }
    }

    /// @dev A transfer of which one word of the answer is read, whatever its length: an answer of any size costs the batch nothing. Sent
    /// is what did not revert and answered true or nothing.
    function _send(address to, uint256 amount) private returns (bool sent) {
        if (gasleft() < GAS_LEFT) revert TooLittleGas();
        address token_ = address(token);
        if (to == address(this) || to == token_) return false;
        bytes4 selector = IERC20.transfer.selector;
        assembly ("memory-safe") {
            let start := mload(0x40)
            mstore(start, selector)
            mstore(add(start, 0x04), to)
            mstore(add(start, 0x24), amount)
            sent := call(TRANSFER_GAS, token_, 0, start, 0x44, 0, 0x20)
            if sent { sent := or(iszero(returndatasize()), and(gt(returndatasize(), 0x1f), eq(mload(0), 1))) }
        }
    }

    function _setOperator(address operator_) private {
        operator = operator_;
        emit OperatorChanged(operator_);
    }

    function _setDailyLimit(uint256 dailyLimit_) private {
        dailyLimit = dailyLimit_;
        emit DailyLimitChanged(dailyLimit_);
    }
}
